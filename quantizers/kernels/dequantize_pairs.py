"""The 16-bit weight of packed codes that stand for two weights each (`cuda/dequantize_table.cu`): for prompts."""

from __future__ import annotations

import ctypes

import torch

from quantizers.base import Quantizer
from quantizers.kernels.build import check, load
from quantizers.kernels.gemv import processors
from quantizers.kernels.gemv_table import check_codebook, first_bytes, instance, units


class _Params(ctypes.Structure):
    """Mirrors `DequantizeTableParams` of cuda/dequantize_table.cu."""

    _fields_ = (
        ("codes", ctypes.c_void_p * 2),
        ("codebook", ctypes.c_void_p),
        ("row_scale", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("unit", ctypes.c_float * 2),
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("first_columns", ctypes.c_int),
        ("scalar", ctypes.c_int),
        ("multiplier", ctypes.c_uint32),
    )


def dequantize_pairs(
    quantizer: Quantizer,
    codebook: torch.Tensor | None,
    codes: torch.Tensor,
    row_scale: torch.Tensor,
    weight: torch.Tensor,
) -> None:
    """The weight (rows, columns), float16 or bfloat16, into `weight`, on the current stream of the device.

    codes, row_scale, codebook: as of `gemv_table.multiply`. ValueError on rows that are no multiple of 16, columns that
    are none of 64, another number of bytes, or another codebook."""
    how, (rows, columns) = instance(quantizer), weight.shape
    if rows % 16 or columns % 64 or weight.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"rows are a multiple of 16, columns of 64, of 16-bit weights; not {rows}, {columns}, {weight.dtype}"
        )
    before = first_bytes(quantizer, codes, rows, columns)
    check_codebook(quantizer, codebook)
    library = load("dequantize_table", weight.device, how.defines)
    params = _Params(
        codes=(codes.data_ptr(), codes.data_ptr() + before),
        codebook=None if codebook is None else codebook.data_ptr(),
        row_scale=row_scale.data_ptr(),
        weight=weight.data_ptr(),
        unit=units(quantizer),
        rows=rows,
        columns=columns,
        first_columns=how.split(columns),
        scalar=int(how.scalar),
        multiplier=how.multiplier,
    )
    stream = ctypes.c_void_p(torch.cuda.current_stream(weight.device).cuda_stream)
    status = library.dequantize_table(
        ctypes.byref(params), int(weight.dtype == torch.bfloat16), processors(weight.device.index or 0), stream
    )
    check(status, "dequantize_table")
