"""The dequantize kernel against the decoded weight: its logic on this CPU, its numbers on a GPU, every rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated_kernels import PROCESSORS, emulated, library_folder, needs_gxx, on_cpu

from quantizers import make_quantizer
from quantizers.base import Encoded
from quantizers.kernels import dequantize as whole
from quantizers.kernels import dequantize_pairs as pairs
from quantizers.kernels.dequantize import dequantize
from quantizers.trellis.computed import CONSTANTS

__all__ = ["library_folder", "on_cpu"]


def compared(name: str, shape: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    """Every weight within a rounding of the decoded one (float32), none left unwritten."""
    rows, columns = shape
    quantizer, generator = make_quantizer(name), torch.Generator().manual_seed(rows)
    size = quantizer.storage_bytes(rows, columns) - 2 * rows
    codes = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    scale = (torch.rand(rows, generator=generator) + 0.5).half()
    encoded = Encoded(out_features=rows, in_features=columns, tensors={"codes": codes, "row_scale": scale})
    table = quantizer.codebook()
    weight = torch.full(shape, torch.nan, dtype=dtype, device=device)
    held = None if table is None else table.to(device)
    dequantize(quantizer, held, codes.to(device), scale.to(device), weight)
    wanted = quantizer.decode(encoded)
    assert torch.allclose(weight.float().cpu(), wanted, rtol=2**-10 if dtype == torch.float16 else 2**-8, atol=1e-6)


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
    for module in (whole, pairs):
        monkeypatch.setattr(module, "load", lambda name, device, given: emulated(name, given, library_folder))
        monkeypatch.setattr(module, "processors", lambda index: PROCESSORS)
    compared(name, shape, dtype, "cpu")


def test_other_shapes_and_sizes_are_refused() -> None:
    scale, none = torch.ones(16, dtype=torch.float16), torch.zeros(0, dtype=torch.uint8)
    for name, columns in (("trellis-2", 24), ("trellis2-2", 96)):
        quantizer = make_quantizer(name)
        with pytest.raises(ValueError, match=f"not 16, {columns}"):
            dequantize(quantizer, None, none, scale, torch.zeros(16, columns, dtype=torch.float16))
        with pytest.raises(ValueError, match="5 bytes of codes"):
            dequantize(quantizer, None, torch.zeros(5, dtype=torch.uint8), scale, torch.zeros(16, 64).half())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and nvcc")
@pytest.mark.parametrize(
    "name", [*(f"trellis-{quarters / 4:g}" for quarters in CONSTANTS), *PAIRS, *ODD, "tcq-4", "vq-2"]
)
def test_the_numbers_on_a_gpu(name: str) -> None:
    for shape in ((16, 64), (1040, 4096)):
        for dtype in (torch.float16, torch.bfloat16):
            compared(name, shape, dtype, "cuda")
