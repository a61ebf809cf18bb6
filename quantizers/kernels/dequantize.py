"""The 16-bit weight of packed codes, for prompts and large batches: `trellis` by `cuda/dequantize_trellis.cu`, families
whose codes stand for two weights each by `cuda/dequantize_table.cu` (`dequantize_pairs`)."""

from __future__ import annotations

import ctypes

import torch

from quantizers.base import Quantizer
from quantizers.kernels.build import check, load
from quantizers.kernels.dequantize_pairs import dequantize_pairs
from quantizers.kernels.gemv import processors
from quantizers.trellis.computed import CONSTANTS, DEVIATION
from quantizers.trellis.computed_trellis import ComputedTrellis
from quantizers.trellis.mixed_stream import tile_bytes


class _Params(ctypes.Structure):
    """Mirrors `DequantizeParams` of cuda/dequantize_trellis.cu."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("row_scale", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("multiplier", ctypes.c_uint32),
        ("unit", ctypes.c_float),
    )


def dequantize(
    quantizer: Quantizer,
    codebook: torch.Tensor | None,
    codes: torch.Tensor,
    row_scale: torch.Tensor,
    weight: torch.Tensor,
) -> None:
    """The weight (rows, columns), float16 or bfloat16, into `weight`, on the current stream of the device.

    Codes, row scales and codebook as the quantizer has them, on the device. ValueError as `dequantize_trellis` and
    `dequantize_pairs`."""
    if isinstance(quantizer, ComputedTrellis):
        dequantize_trellis(codes, row_scale, weight, quantizer.quarters)
    else:
        dequantize_pairs(quantizer, codebook, codes, row_scale, weight)


def dequantize_trellis(codes: torch.Tensor, row_scale: torch.Tensor, weight: torch.Tensor, quarters: int) -> None:
    """The weight (rows, columns), float16 or bfloat16, into `weight`, on the current stream of the device.

    codes: (rows / 16 x columns / 16 x 8 quarters,) uint8, of the family's own number of state bits; row_scale: (rows,)
    float16. ValueError on rows or columns that are no multiple of 16, or another number of bytes."""
    rows, columns = weight.shape
    if rows % 16 or columns % 16 or weight.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"rows and columns are multiples of 16, of 16-bit weights; not {rows}, {columns}, {weight.dtype}"
        )
    if codes.numel() != rows * columns // 256 * tile_bytes(quarters):
        raise ValueError(f"{codes.numel()} bytes of codes are not those of {rows} x {columns} at {quarters / 4:g} bits")
    multiplier, gain = CONSTANTS[quarters]
    library = load("dequantize_trellis", weight.device, {"QUARTERS": quarters})
    params = _Params(
        codes=codes.data_ptr(),
        row_scale=row_scale.data_ptr(),
        weight=weight.data_ptr(),
        rows=rows,
        columns=columns,
        multiplier=multiplier,
        unit=1 / (DEVIATION * gain),
    )
    stream = ctypes.c_void_p(torch.cuda.current_stream(weight.device).cuda_stream)
    status = library.dequantize_trellis(
        ctypes.byref(params), int(weight.dtype == torch.bfloat16), processors(weight.device.index or 0), stream
    )
    check(status, "dequantize_trellis")
