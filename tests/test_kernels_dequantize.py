"""The dequantize kernel against the decoded weight: its logic on this CPU, its numbers on a GPU, every rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checked_kernels import check_weight, emulate, needs_gpu
from emulated_kernels import library_folder, needs_gxx, on_cpu

from quantizers import make_quantizer
from quantizers.kernels.dequantize import dequantize
from quantizers.trellis.computed import CONSTANTS

__all__ = ["library_folder", "on_cpu"]


PAIRS = ("trellis2-1.5", "trellis2-2", "tcq-3", "half-tcq-3.25", "vq-2.5", "nuq-3", "nuq-6")
ODD = ("trellis2-2.5", "trellis2-3.5", "tcq-1.5")
EMULATED = [
    (name, shape, dtype)
    for names, least, odd in (
        ((f"trellis-{quarters / 4:g}" for quarters in (5, 8, 13, 24)), (16, 16), (80, 336)),
        (PAIRS, (16, 64), (80, 832)),
    )
    for name in names
    for shape, dtype in ((least, torch.float16), (odd, torch.bfloat16))
] + [  # every slot of every warp's ring is used, and lanes of odd codes read one word more than they need
    (name, (16, 4096), torch.float16) for name in (*ODD, "half-tcq-3.25", "vq-2.5")
]
EMULATED += [  # where the states of a lane stand is worked out for every rate: all of them, in 21 tiles
    (f"trellis-{quarters / 4:g}", (48, 112), torch.float16) for quarters in CONSTANTS if quarters not in (5, 8, 13, 24)
]


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("name", "shape", "dtype"), EMULATED)
def test_the_kernel_decodes(
    name: str, shape: tuple[int, int], dtype: torch.dtype, library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(library_folder, monkeypatch, {})
    check_weight(make_quantizer(name), shape, dtype)


def test_other_shapes_and_sizes_are_refused() -> None:
    scale, none = torch.ones(16, dtype=torch.float16), torch.zeros(0, dtype=torch.uint8)
    for name, columns in (("trellis-2", 24), ("trellis2-2", 96)):
        quantizer = make_quantizer(name)
        with pytest.raises(ValueError, match=f"not 16, {columns}"):
            dequantize(quantizer, None, none, scale, torch.zeros(16, columns, dtype=torch.float16))
        with pytest.raises(ValueError, match="5 bytes of codes"):
            dequantize(quantizer, None, torch.zeros(5, dtype=torch.uint8), scale, torch.zeros(16, 64).half())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "name", [*(f"trellis-{quarters / 4:g}" for quarters in CONSTANTS), *PAIRS, *ODD, "tcq-4", "vq-2"]
)
def test_the_numbers_on_a_gpu(name: str) -> None:
    for shape in ((16, 64), (1040, 4096)):
        for dtype in (torch.float16, torch.bfloat16):
            check_weight(make_quantizer(name), shape, dtype, device="cuda")
