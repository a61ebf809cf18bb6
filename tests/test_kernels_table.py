"""Products by table (`cuda/gemv_table.cu`) equal those of decoded weights in float64: by emulation, and on a GPU."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from checked_kernels import check_products, emulate, needs_gpu, needs_nvcc, with_random_table
from emulated_kernels import library_folder, needs_gxx, on_cpu

from quantizers import make_quantizer
from quantizers.kernels.build import KernelUnavailableError, build
from quantizers.kernels.gemv_table import all_defines, instance, multiply

__all__ = ["library_folder", "on_cpu"]
# Few warps have more items than copies under way, and items of two strips, on matrices that take little time.
ORDERS = [{}, {"WARPS": 3}, {"WARPS": 3, "EARLY_COPIES": 1}, {"WARPS": 3, "BACKWARDS": 1}]
TRELLIS = [f"tcq-{rate}" for rate in ("1.5", "2", "2.5", "3", "3.5", "4", "4.5", "5")]
HALVES = [f"half-tcq-{rate}" for rate in ("1.75", "2.25", "3.25", "4.25", "4.75")]
VECTORS = [f"vq-{bits / 2:g}" for bits in range(3, 13)]
PAIRS = [f"trellis2-{rate}" for rate in ("1", "1.5", "2", "2.5", "3", "3.5", "4")]
SCALARS = [f"nuq-{bits}" for bits in range(2, 9)]


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("name", "state_bits", "order"),
    [
        ("tcq-1.5", 16, 0),
        ("tcq-2", 16, 3),
        ("tcq-2.5", 12, 1),
        ("tcq-3", 16, 2),
        ("tcq-4.5", 16, 1),
        ("half-tcq-3.25", 16, 1),
        ("trellis2-1", 16, 0),
        ("trellis2-1.5", 16, 3),
        ("trellis2-2", 16, 1),
        ("trellis2-2.5", 12, 2),
        ("trellis2-3", 16, 3),
        ("half-tcq-4.25", 12, 3),
        ("vq-1.5", 16, 1),
        ("vq-2", 16, 3),
        ("nuq-3", 16, 2),
        ("nuq-6", 16, 0),
    ],
)
def test_products_on_this_cpu(
    name: str, state_bits: int, order: int, library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(library_folder, monkeypatch, ORDERS[order])
    quantizer = with_random_table(name, state_bits)
    check_products(quantizer, (16, 64), (9,))
    check_products(quantizer, (80, 1088), (3,))
    check_products(quantizer, (48, 320), (1,), (torch.bfloat16,))


@needs_nvcc
@pytest.mark.parametrize("name", ["half-tcq-3.25", "trellis2-2", "vq-2", "nuq-6"])
def test_every_template_compiles(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITPALETTE_CACHE", str(tmp_path))
    path = build("gemv_table", "90a", instance(make_quantizer(name)).defines)
    assert hasattr(ctypes.CDLL(str(path)), "gemv_table")


def test_every_member_of_the_families_has_a_library() -> None:
    listed = list(all_defines())
    for name in (
        *TRELLIS,
        *HALVES,
        *PAIRS,
        *VECTORS,
        *SCALARS,
        "published-tcq-3",
        "trained-tcq-3",
        "published-half-tcq-3.25",
    ):
        assert instance(make_quantizer(name)).defines in listed
    assert len({tuple(sorted(defines.items())) for defines in listed}) == len(listed)


def test_what_the_kernel_does_not_take_is_refused() -> None:
    quantizer = with_random_table("tcq-3", 16)
    table = quantizer.codebook()
    assert table is not None
    half, codes = torch.float16, torch.zeros(384, dtype=torch.uint8)

    def tried(
        rows: int = 16, columns: int = 64, batch: int = 1, codes: torch.Tensor = codes, table: torch.Tensor = table
    ) -> None:
        x, y = torch.zeros(batch, columns, dtype=half), torch.zeros(batch, rows, dtype=half)
        multiply(quantizer, table, codes, torch.zeros(rows, dtype=half), x, y)

    for wrong in ({"rows": 24}, {"columns": 96}, {"batch": 17}, {"batch": 0}):
        with pytest.raises(ValueError, match="rows are a multiple of 16, columns of 64"):
            tried(**wrong)
    with pytest.raises(ValueError, match="383 bytes of codes are not the 384 of tcq-3"):
        tried(codes=codes[1:])
    with pytest.raises(ValueError, match=r"float16 of shape \(512, 2\)"):
        tried(table=table[1:])
    with pytest.raises(ValueError, match="multiples of 16 bytes"):
        tried(codes=torch.zeros(385, dtype=torch.uint8)[1:])
    with pytest.raises(ValueError, match="int-4 is not multiplied by pairs"):
        instance(make_quantizer("int-4"))
    with pytest.raises(KernelUnavailableError, match="run on a CUDA device, not on cpu"):
        tried()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("shape", [(16, 64), (576, 576), (576, 1536), (4096, 4096), (256, 14336)])
@pytest.mark.parametrize(
    ("name", "state_bits"),
    [(name, 16) for name in (*TRELLIS, *HALVES, *PAIRS, *VECTORS, *SCALARS)]
    + [(name, 12) for name in ("tcq-1.5", "tcq-2", "tcq-3", "tcq-5", "half-tcq-2.25", "half-tcq-4.25")],
)
def test_products_on_a_gpu(name: str, state_bits: int, shape: tuple[int, int]) -> None:
    quantizer = with_random_table(name, state_bits)
    check_products(quantizer, shape, (1, 3, 8, 16), (torch.float16, torch.bfloat16), device="cuda")
