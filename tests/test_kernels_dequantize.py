"""The dequantize kernel against the decoded weight: its logic on this CPU, its numbers on a GPU, every rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated_kernels import PROCESSORS, emulated, library_folder, needs_gxx, on_cpu

from quantizers import make_quantizer
from quantizers.base import Encoded
from quantizers.kernels import dequantize as module
from quantizers.kernels import dequantize_pairs as pairs
from quantizers.kernels.dequantize import dequantize
from quantizers.kernels.dequantize_pairs import dequantize_pairs
from quantizers.trellis.computed import CONSTANTS

__all__ = ["library_folder", "on_cpu"]


def compared(quarters: int, shape: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    """Every weight within a rounding of the decoded one (float32), none left unwritten."""
    rows, columns = shape
    generator = torch.Generator().manual_seed(quarters)
    codes = torch.randint(0, 256, (rows * columns * quarters // 32,), dtype=torch.uint8, generator=generator)
    scale = (torch.rand(rows, generator=generator) + 0.5).half()
    encoded = Encoded(out_features=rows, in_features=columns, tensors={"codes": codes, "row_scale": scale})
    wanted = make_quantizer(f"trellis-{quarters / 4:g}").decode(encoded)
    weight = torch.full(shape, torch.nan, dtype=dtype, device=device)
    dequantize(codes.to(device), scale.to(device), weight, quarters)
    assert torch.allclose(weight.float().cpu(), wanted, rtol=2**-10 if dtype == torch.float16 else 2**-8, atol=1e-6)


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("quarters", [5, 8, 13, 24])
@pytest.mark.parametrize(("shape", "dtype"), [((16, 16), torch.float16), ((80, 336), torch.bfloat16)])
def test_the_kernel_decodes(
    quarters: int, shape: tuple[int, int], dtype: torch.dtype, library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda name, device, given: emulated(name, given, library_folder))
    monkeypatch.setattr(module, "processors", lambda index: PROCESSORS)
    compared(quarters, shape, dtype, "cpu")


def compared_pairs(name: str, shape: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    """The same, of codes that stand for two weights each."""
    rows, columns = shape
    quantizer, generator = make_quantizer(name), torch.Generator().manual_seed(rows)
    size = quantizer.storage_bytes(rows, columns) - 2 * rows
    codes = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    scale = (torch.rand(rows, generator=generator) + 0.5).half()
    encoded = Encoded(out_features=rows, in_features=columns, tensors={"codes": codes, "row_scale": scale})
    table = quantizer.codebook()
    held = None if table is None else table.to(device)
    weight = torch.full(shape, torch.nan, dtype=dtype, device=device)
    dequantize_pairs(quantizer, held, codes.to(device), scale.to(device), weight)
    wanted = quantizer.decode(encoded)
    assert torch.allclose(weight.float().cpu(), wanted, rtol=2**-10 if dtype == torch.float16 else 2**-8, atol=1e-6)


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", ["trellis2-1.5", "trellis2-2", "tcq-3", "half-tcq-3.25", "vq-2.5", "nuq-3", "nuq-6"])
@pytest.mark.parametrize(("shape", "dtype"), [((16, 64), torch.float16), ((80, 832), torch.bfloat16)])
def test_the_kernel_decodes_pairs(
    name: str, shape: tuple[int, int], dtype: torch.dtype, library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "load", lambda name, device, given: emulated(name, given, library_folder))
    monkeypatch.setattr(pairs, "processors", lambda index: PROCESSORS)
    compared_pairs(name, shape, dtype, "cpu")


def test_other_shapes_and_sizes_are_refused() -> None:
    scale = torch.ones(16, dtype=torch.float16)
    with pytest.raises(ValueError, match="not 16, 24"):
        dequantize(torch.zeros(0, dtype=torch.uint8), scale, torch.zeros(16, 24, dtype=torch.float16), 8)
    with pytest.raises(ValueError, match="5 bytes of codes"):
        dequantize(torch.zeros(5, dtype=torch.uint8), scale, torch.zeros(16, 16, dtype=torch.float16), 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and nvcc")
@pytest.mark.parametrize("quarters", CONSTANTS)
def test_the_numbers_on_a_gpu(quarters: int) -> None:
    for shape in ((16, 16), (1040, 4096)):
        for dtype in (torch.float16, torch.bfloat16):
            compared(quarters, shape, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and nvcc")
@pytest.mark.parametrize("name", ["trellis2-2", "trellis2-3.5", "tcq-2", "tcq-3.5", "half-tcq-3.25", "vq-2", "nuq-4"])
def test_pairs_on_a_gpu(name: str) -> None:
    for shape in ((16, 64), (1040, 4096)):
        for dtype in (torch.float16, torch.bfloat16):
            compared_pairs(name, shape, dtype, "cuda")
