"""Kernels of cuda/ as plain C++ (`cuda_on_cpu/`): their logic is tested where no GPU is. Needs g++."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from quantizers.kernels.build import SOURCES

SHIM = Path(__file__).parent / "cuda_on_cpu"
FLAGS = ("-std=c++20", "-O2", "-w", "-fno-strict-aliasing", "-shared", "-fPIC", "-x", "c++")
PROCESSORS = 3  # of the emulated device
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def plain(source: str) -> str:
    """CUDA's own syntax written as C++: dynamic shared memory, and launches with three brackets."""
    source = re.sub(
        r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];",
        r"\1* \2 = reinterpret_cast<\1*>(emulated::dynamic_shared);",
        source,
    )
    launch = r"(\w+(?:<[\w, ]*>)?)<<<([^,;]*), ([^,;]*), ([^,;]*), [^,;]*>>>(\([^;]*\));"
    return re.sub(launch, r"emulated::launch(dim3(\2), dim3(\3), \4, [&] { \1\5; });", source)


def emulated(name: str, defines: Mapping[str, int], folder: Path, source: str = "") -> ctypes.CDLL:
    """The library of cuda/NAME.cu, or of a source given, for this CPU, built once in `folder`.

    Shim files take the place of those of their name."""
    key = hashlib.sha256(repr((name, sorted(defines.items()))).encode()).hexdigest()[:12]
    target = folder / f"{name}-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:  # another worker may be at it too: the last one stays
            sources = Path(own)
            for path in [*SOURCES.glob("*.cuh"), *SOURCES.glob("*.cu")]:
                (sources / path.name).write_text(plain(path.read_text()))
            for path in SHIM.iterdir():
                (sources / path.name).write_text(path.read_text())
            if source:
                (sources / f"{name}.cu").write_text(source)
            command = ["g++", *FLAGS, f"-I{sources}", *(f"-D{macro}={value}" for macro, value in defines.items())]
            made = sources / target.name
            subprocess.run([*command, str(sources / f"{name}.cu"), "-o", str(made)], check=True)
            made.replace(target)
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the libraries of this session lie, of all its workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "emulated"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's questions about a device, answered for CPU tensors."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=0))
    properties = SimpleNamespace(multi_processor_count=PROCESSORS)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
