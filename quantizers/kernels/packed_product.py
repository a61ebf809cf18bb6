"""y = x W^T from the packed codes of any quantizer that has a kernel: which kernel, and what it reads of x."""

from __future__ import annotations

import torch

from quantizers.base import Quantizer
from quantizers.kernels import gemv, gemv_table
from quantizers.kernels.activation_bytes import ActivationBytes, Form
from quantizers.kernels.place import Place
from quantizers.trellis import ComputedPair, ComputedTrellis
from quantizers.trellis.computed import native_state_bits

Input = torch.Tensor | ActivationBytes


def has_kernel(quantizer: Quantizer) -> bool:
    """Whether products with the codes of a quantizer have a kernel."""
    if isinstance(quantizer, ComputedTrellis):
        return quantizer.states == native_state_bits(quantizer.quarters)
    return gemv_table.multiplied(quantizer)


def form_of(quantizer: Quantizer) -> Form:
    """The bytes that products with its codes read; of others the 16-bit numbers are read."""
    if not has_kernel(quantizer):
        return Form.NONE
    if isinstance(quantizer, ComputedTrellis):
        return Form.SINGLES
    return Form.PAIRS if isinstance(quantizer, ComputedPair) else Form.NONE


def most_batch(rows: int, columns: int) -> int:
    """Up to which batch passes of 16 are faster than decoding the weight to 16 bits and cuBLAS.

    Measured at batches of 32, 64 and 128 for the layers of Llama-3.1-8B at 3 and 4 bits (one H100, EXPERIMENTS.md): a
    pass costs 1 / 2 of decoding at 2^24 weights, 1 / 3 at rows of 14,336 weights, 1 / 5 and less at 14,336 rows."""
    weights = rows * columns
    if weights < 1 << 23:
        return gemv.MOST_BATCH
    return (2 if weights < 1 << 25 or columns > rows else 4) * gemv.MOST_BATCH


def multiply(
    quantizer: Quantizer,
    codebook: torch.Tensor | None,
    codes: torch.Tensor,
    row_scale: torch.Tensor,
    x: Input,
    y: torch.Tensor,
    *,
    place: Place = Place.BETWEEN_ROTATIONS,
) -> None:
    """Into y (batch, rows), as `gemv.multiply` and `gemv_table.multiply`; codebook: on the device, None where values
    are computed. More rows of 16-bit x than a kernel takes are made in passes. ValueError as theirs."""
    if isinstance(x, torch.Tensor) and len(x) > gemv.MOST_BATCH:
        for part, into in zip(torch.split(x, gemv.MOST_BATCH), torch.split(y, gemv.MOST_BATCH), strict=True):
            multiply(quantizer, codebook, codes, row_scale, part, into, place=place)
        return
    if isinstance(quantizer, ComputedTrellis):
        gemv.multiply(codes, row_scale, x, y, quantizer.quarters, place=place)
    else:
        gemv_table.multiply(quantizer, codebook, codes, row_scale, x, y, place=place)
