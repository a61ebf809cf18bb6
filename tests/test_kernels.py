"""CUDA kernels: every template compiles where nvcc is; on a GPU, products equal the decoded weights' in float64."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from checked_kernels import check_products, needs_gpu, needs_nvcc

from quantizers import make_quantizer
from quantizers.kernels import ahead
from quantizers.kernels.build import SOURCES, KernelUnavailableError, build, compile_command, load
from quantizers.kernels.gemv import multiply


@needs_nvcc
@pytest.mark.parametrize(
    ("name", "defines", "entry"),
    [
        ("encode_trellis", {"QUARTERS": 13, "THREADS": 512}, "encode_trellis"),
        ("gemv_trellis", {"QUARTERS": 11}, "gemv_trellis"),
        ("read_limit", {}, "read_limit"),
    ],
)
def test_a_kernel_compiles_to_a_library_with_its_entry_point(
    name: str, defines: dict[str, int], entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITPALETTE_CACHE", str(tmp_path))
    path = build(name, "90a", defines)
    assert hasattr(ctypes.CDLL(str(path)), entry)
    written = path.stat().st_mtime_ns
    assert build(name, "90a", defines).stat().st_mtime_ns == written, "built once"


def test_without_a_gpu_the_message_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(KernelUnavailableError, match="run on a CUDA device, not on cpu"):
        load("gemv_trellis", torch.device("cpu"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("NVCC", raising=False)
    with pytest.raises(KernelUnavailableError, match="no nvcc"):
        compile_command(Path("a.cu"), Path("a.so"), "90a", {})


def test_all_kernels_are_named_ahead_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every source of cuda/ is in the list once for each set of defines, and the command builds the list."""
    chosen = list(ahead.instances())
    assert {name for name, _ in chosen} == {path.stem for path in SOURCES.glob("*.cu")}
    assert len({(name, *sorted(defines.items())) for name, defines in chosen}) == len(chosen)
    built: list[tuple[str, str]] = []
    monkeypatch.setattr(ahead, "compiler", lambda: "nvcc")
    monkeypatch.setattr(ahead, "build", lambda name, arch, defines: built.append((name, arch)))
    ahead.main(["--arch", "80", "--jobs", "1"])
    assert built == [(name, "80") for name, _ in chosen]


def test_shapes_that_the_kernel_does_not_take_are_refused() -> None:
    x, scale = torch.zeros(1, 64, dtype=torch.float16), torch.zeros(16, dtype=torch.float16)
    with pytest.raises(ValueError, match="not 24, 64, 1"):
        multiply(torch.zeros(0, dtype=torch.uint8), scale, x, torch.zeros(1, 24, dtype=torch.float16), 12)
    with pytest.raises(ValueError, match="5 bytes of codes"):
        multiply(torch.zeros(5, dtype=torch.uint8), scale, x, torch.zeros(1, 16, dtype=torch.float16), 12)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("quarters", [5, 8, 11, 12, 13, 16, 19, 24])
@pytest.mark.parametrize("shape", [(16, 64), (48, 576), (576, 1536), (1536, 576), (4096, 4096), (256, 14336)])
def test_products_equal_those_of_the_decoded_weight(quarters: int, shape: tuple[int, int]) -> None:
    quantizer, dtypes = make_quantizer(f"trellis-{quarters / 4:g}"), (torch.float16, torch.bfloat16)
    check_products(quantizer, shape, (1, 2, 3, 4, 8, 13, 16), dtypes, device="cuda")
