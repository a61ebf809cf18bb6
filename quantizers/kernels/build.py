r"""Building `cuda/NAME.cu` on first use: nvcc makes a shared library with C entry points, loaded by ctypes.

No torch header is compiled (an instance takes seconds, not a minute) and the library is bound to no torch version: the
Python side checks tensors, passes their addresses and the current stream, and turns a returned cudaError_t into an
exception. Libraries are kept in the user's cache folder under a hash of the sources, the flags and the architecture."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from quantizers.codebooks import cache_folder

SOURCES = Path(__file__).resolve().parent.parent.parent / "cuda"
FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-lineinfo", "-shared", "-Xcompiler", "-fPIC")


OLDEST = (8, 0)  # compute capability: asynchronous copies, and products of bytes in matrix instructions


class KernelUnavailableError(RuntimeError):
    """There is no CUDA device, or it is too old, or there is no nvcc to build for it."""


@cache
def architecture(device: torch.device) -> str:
    """`90a` for a Hopper card: the target that nvcc is given. KernelUnavailableError on a card that is too old."""
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < OLDEST:
        raise KernelUnavailableError(
            f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}; "
            f"the kernels need {OLDEST[0]}.{OLDEST[1]} or more"
        )
    return f"{major}{minor}{'a' if major >= 9 else ''}"


def card(arch: str) -> Mapping[str, int]:
    """What cuda/card.cuh asks of an architecture: CAPABILITY, and MOST_SHARED, bytes of shared memory that a block may
    have (CUDA programming guide)."""
    capability = int(arch.rstrip("af"))
    kilobytes = 163 if capability in (80, 87) else 227 if 90 <= capability < 120 else 99
    return {"CAPABILITY": capability, "MOST_SHARED": kilobytes << 10}


def most_shared(device: torch.device) -> int:
    """Bytes of shared memory that a block may have on a GPU."""
    return card(architecture(device))["MOST_SHARED"]


def usable(device: torch.device) -> None:
    """KernelUnavailableError unless kernels can be built for the device, a GPU."""
    architecture(device)
    compiler()


def here() -> torch.device:
    """The current GPU. KernelUnavailableError where there is none that kernels can be built for."""
    if not torch.cuda.is_available():
        raise KernelUnavailableError("no CUDA device: the kernels run on a GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    usable(device)
    return device


def compiler() -> str:
    """nvcc: $NVCC, on PATH or under $CUDA_HOME. KernelUnavailableError where there is none."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    for candidate in (os.environ.get("NVCC"), shutil.which("nvcc"), f"{home}/bin/nvcc"):
        if candidate and Path(candidate).is_file():
            return candidate
    raise KernelUnavailableError("no nvcc: put the CUDA toolkit's nvcc on PATH, or set NVCC or CUDA_HOME")


def compile_command(source: Path, target: Path, arch: str, defines: Mapping[str, int]) -> list[str]:
    """The nvcc command that makes the library `target`."""
    given = [f"-D{name}={value}" for name, value in sorted({**card(arch), **defines}.items())]
    return [compiler(), *FLAGS, f"-gencode=arch=compute_{arch},code=sm_{arch}", *given, str(source), "-o", str(target)]


def library_path(name: str, arch: str, defines: Mapping[str, int]) -> Path:
    """Where the library of `cuda/NAME.cu` is kept: the name holds a hash of all that it is made from."""
    digest = hashlib.sha256()
    for path in [SOURCES / f"{name}.cu", *sorted(SOURCES.glob("*.cuh"))]:
        digest.update(path.read_bytes())
    digest.update(repr((arch, sorted({**card(arch), **defines}.items()), FLAGS)).encode())
    return cache_folder() / "kernels" / f"{name}-{arch}-{digest.hexdigest()[:16]}.so"


def build(name: str, arch: str, defines: Mapping[str, int]) -> Path:
    """The library of `cuda/NAME.cu` for one architecture, compiled where it is not there yet.

    KernelUnavailableError where there is no compiler; RuntimeError with its output where it fails."""
    path = library_path(name, arch, defines)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command: Sequence[str] = compile_command(SOURCES / f"{name}.cu", made, arch, defines)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
            made.replace(path)
    return path


@cache  # a hash of all sources would stand before every product
def _loaded(name: str, arch: str, defines: frozenset[tuple[str, int]]) -> ctypes.CDLL:
    return ctypes.CDLL(str(build(name, arch, dict(defines))))


def load(name: str, device: torch.device, defines: Mapping[str, int] | None = None) -> ctypes.CDLL:
    """The library for the device. KernelUnavailableError without CUDA or compiler, or on a card that is too old."""
    if device.type != "cuda":
        raise KernelUnavailableError(f"the kernels of cuda/{name}.cu run on a CUDA device, not on {device}")
    return _loaded(name, architecture(device), frozenset((defines or {}).items()))


def check(status: int, what: str) -> None:
    """RuntimeError for a cudaError_t that is not success."""
    if status:
        raise RuntimeError(f"{what}: CUDA error {status}")
