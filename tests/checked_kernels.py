"""What kernels make of packed codes against the decoded weights, on a CPU by emulation or on a GPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from emulated_kernels import PROCESSORS, emulated

from quantizers import make_quantizer
from quantizers.base import Encoded, Quantizer
from quantizers.kernels import activation_bytes, dequantize, dequantize_pairs, gemv, gemv_table, packed_product
from quantizers.kernels.activation_bytes import Form
from quantizers.kernels.build import KernelUnavailableError, compiler
from quantizers.kernels.place import Place


def has_compiler() -> bool:
    try:
        compiler()
    except KernelUnavailableError:
        return False
    return True


needs_nvcc = pytest.mark.skipif(not has_compiler(), reason="no nvcc")
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_compiler()), reason="needs a CUDA device and nvcc"
)


def emulate(folder: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, int], processors: int = PROCESSORS) -> None:
    """From here on kernels of codes are libraries for this CPU; more: defines, or orders of threads."""

    def load(name: str, device: torch.device, defines: dict[str, int] | None = None) -> object:
        return emulated(name, {**(defines or {}), **more}, folder)

    for module in (gemv, gemv_table, dequantize, dequantize_pairs):
        monkeypatch.setattr(module, "load", load)
        monkeypatch.setattr(module, "processors", lambda index: processors)
    monkeypatch.setattr(activation_bytes, "load", lambda name, device: emulated(name, {}, folder))


@cache
def with_random_table(name: str, state_bits: int | None = None) -> Quantizer:
    """The quantizer with a codebook of random numbers, which is there at once and differs in every entry."""
    quantizer = make_quantizer(name) if state_bits is None else make_quantizer(name, state_bits)
    shape = gemv_table.instance(quantizer).codebook_shape if gemv_table.multiplied(quantizer) else None
    if shape is None:
        return quantizer
    table = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))
    return quantizer.with_codebook(table[table.view(shape[0], -1)[:, 0].argsort()].half())


def random_encoded(quantizer: Quantizer, rows: int, columns: int) -> Encoded:
    """Random codes and row scales."""
    generator = torch.Generator().manual_seed(rows + columns)
    size = quantizer.storage_bytes(rows, columns) - 2 * rows
    codes = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    scale = (torch.rand(rows, generator=generator) + 0.5).half()
    return Encoded(out_features=rows, in_features=columns, tensors={"codes": codes, "row_scale": scale})


def check_products(
    quantizer: Quantizer,
    shape: tuple[int, int],
    batches: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...] = (torch.float16,),
    *,
    device: str = "cpu",
) -> None:
    """Random codes and activations, poisoned outputs, a run for every place."""
    rows, columns = shape
    encoded, generator = random_encoded(quantizer, rows, columns), torch.Generator().manual_seed(rows * columns)
    codes, scale = (encoded.tensors[name].to(device) for name in ("codes", "row_scale"))
    table, as_bytes = quantizer.codebook(), packed_product.form_of(quantizer) is not Form.NONE
    held = None if table is None else table.to(device)
    for dtype in dtypes:
        rounded = quantizer if table is None else quantizer.with_codebook(table.to(dtype).half())
        weight = rounded.decode(encoded).double()
        for batch in batches:
            x = torch.randn(batch, columns, generator=generator).to(dtype)
            products = []
            for place in Place:
                y = torch.full((batch, rows), torch.nan, dtype=dtype, device=device)
                packed_product.multiply(quantizer, held, codes, scale, x.to(device), y, place=place)
                products.append(y.cpu().double())
            same = [torch.equal(product, products[0]) for product in products]
            assert all(same), "sums are integers or have one order: every run is the same"
            wanted = x.double() @ weight.T
            error = ((products[0] - wanted).norm() / wanted.norm()).item()
            rounding = 4e-4 if dtype == torch.float16 else 3e-3  # of the output
            assert error < rounding + (1.2e-2 if as_bytes and batch > 4 else 0.0)  # then activations have 8 bits


def check_weight(quantizer: Quantizer, shape: tuple[int, int], dtype: torch.dtype, *, device: str = "cpu") -> None:
    """Random codes: every weight within a rounding of the decoded one (float32), none left unwritten."""
    encoded, table = random_encoded(quantizer, *shape), quantizer.codebook()
    codes, scale = (encoded.tensors[name].to(device) for name in ("codes", "row_scale"))
    weight = torch.full(shape, torch.nan, dtype=dtype, device=device)
    dequantize.dequantize(quantizer, None if table is None else table.to(device), codes, scale, weight)
    rounding = 2**-10 if dtype == torch.float16 else 2**-8
    assert torch.allclose(weight.float().cpu(), quantizer.decode(encoded), rtol=rounding, atol=1e-6)
