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
# -O1: a build of -O2 takes half as long again, and what runs is mostly switches between fibers
FLAGS = ("-std=c++20", "-O1", "-w", "-fno-strict-aliasing", "-fPIC", "-U_FORTIFY_SOURCE")
ORDER = ("BACKWARDS", "EARLY_COPIES")  # set in a library when it is asked for: all orders are of one build
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


def compiled(sources: Path, target: Path, *words: str) -> None:
    """`target`, by g++ in `sources`. Another worker may be at it too: the last one stays."""
    subprocess.run(["g++", *FLAGS, *words, "-o", str(sources / target.name)], check=True)
    (sources / target.name).replace(target)


def emulated(name: str, defines: Mapping[str, int], folder: Path, source: str = "") -> ctypes.CDLL:
    """The library of cuda/NAME.cu, or of a source given, for this CPU, built once in `folder`.

    Shim files take the place of those of their name."""
    macros = sorted((macro, value) for macro, value in defines.items() if macro not in ORDER)
    key = hashlib.sha256(repr((name, macros)).encode()).hexdigest()[:12]
    target = folder / f"{name}-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            sources = Path(own)
            for path in [*SOURCES.glob("*.cuh"), *SOURCES.glob("*.cu")]:
                (sources / path.name).write_text(plain(path.read_text()))
            for path in SHIM.iterdir():
                (sources / path.name).write_text(path.read_text())
            if source:
                (sources / f"{name}.cu").write_text(source)
            standard = folder / "standard.h.gch"  # stands for the header, which is looked for in this folder first
            if not standard.exists():
                compiled(sources, standard, "-x", "c++-header", str(sources / "standard.h"))
            words = [*(f"-D{macro}={value}" for macro, value in macros), "-x", "c++", str(sources / f"{name}.cu")]
            compiled(sources, target, "-shared", f"-I{folder}", f"-I{sources}", "-include", "standard.h", *words)
    library = ctypes.CDLL(str(target))
    library.set_order(*(defines.get(macro, 0) for macro in ORDER))
    return library


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
