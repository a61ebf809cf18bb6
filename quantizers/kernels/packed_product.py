"""y = x W^T from the packed codes of any quantizer that has a kernel: which kernel, and what it reads of x."""

from __future__ import annotations

import torch

from quantizers.base import Quantizer
from quantizers.kernels import gemv, gemv_table
from quantizers.kernels.activation_bytes import ActivationBytes, Form
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


def multiply(
    quantizer: Quantizer,
    codebook: torch.Tensor | None,
    codes: torch.Tensor,
    row_scale: torch.Tensor,
    x: Input,
    y: torch.Tensor,
    *,
    alone: bool = True,
) -> None:
    """Into y (batch, rows), as `gemv.multiply` and `gemv_table.multiply`; codebook: on the device, None where values
    are computed. ValueError as theirs."""
    if isinstance(quantizer, ComputedTrellis):
        gemv.multiply(codes, row_scale, x, y, quantizer.quarters, alone=alone)
    else:
        gemv_table.multiply(quantizer, codebook, codes, row_scale, x, y, alone=alone)
