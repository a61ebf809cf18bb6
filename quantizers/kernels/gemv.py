"""y = x W^T from packed `trellis` codes (`cuda/gemv_trellis.cu`), batch 1 to 16; x as bytes (`activation_bytes`)."""

from __future__ import annotations

import ctypes
from functools import cache

import torch

from quantizers.kernels.activation_bytes import DTYPES, ActivationBytes, Form, of_form
from quantizers.kernels.build import check, load
from quantizers.kernels.place import Place
from quantizers.trellis.computed import CONSTANTS, DEVIATION
from quantizers.trellis.mixed_stream import tile_bytes

MOST_BATCH = 16
MOST_COLUMNS = 33024  # beyond, sums of bytes could leave 32 bits


class _Params(ctypes.Structure):
    """Mirrors `GemvParams` of cuda/trellis_plan.cuh."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("row_scale", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("x_scale", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("batch", ctypes.c_int),
        ("parts", ctypes.c_int),
        ("segment_bits", ctypes.c_int),
        ("multiplier", ctypes.c_uint32),
        ("unit", ctypes.c_float),
        ("alone", ctypes.c_int),
        ("early", ctypes.c_int),
    )


@cache
def processors(index: int) -> int:
    """Multiprocessors of a device."""
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def takes(rows: int, columns: int, batch: int) -> bool:
    """Whether the kernels, this one and the one by table, make products of this shape."""
    return rows % 16 == 0 and columns % 64 == 0 and 0 < columns <= MOST_COLUMNS and 1 <= batch <= MOST_BATCH


def multiply(
    codes: torch.Tensor,
    row_scale: torch.Tensor,
    x: torch.Tensor | ActivationBytes,
    y: torch.Tensor,
    quarters: int,
    *,
    place: Place = Place.BETWEEN_ROTATIONS,
) -> None:
    """y (batch, rows) = x (batch, columns) W^T, into `y`, on the current stream of the device.

    The codes are those of the family's own number of state bits. place: what is launched before and behind.
    codes: (rows / 16 x columns / 16 x 8 quarters,) uint8; row_scale: (rows,) float16; x and y float16 or bfloat16, of x
    bytes are made first where it is none.
    ValueError on what the kernel does not take: rows a multiple of 16, columns of 64, codes and row_scale from
    multiples of 16 bytes."""
    batch, columns = x.shape
    rows = y.shape[1]
    if not takes(rows, columns, batch):
        raise ValueError(
            f"rows are a multiple of 16, columns of 64 and at most {MOST_COLUMNS}, batch 1 to {MOST_BATCH}; "
            f"not {rows}, {columns}, {batch}"
        )
    if codes.numel() != rows * columns // 256 * tile_bytes(quarters):
        raise ValueError(f"{codes.numel()} bytes of codes are not those of {rows} x {columns} at {quarters / 4:g} bits")
    if x.dtype not in DTYPES or y.dtype != x.dtype:
        raise ValueError(f"x and y are both float16 or both bfloat16, not {x.dtype} and {y.dtype}")
    given = of_form(x, Form.SINGLES)
    if any(t.data_ptr() % 16 or not t.is_contiguous() for t in (codes, row_scale, given.rows)):
        raise ValueError("codes, row_scale and x are contiguous and begin at multiples of 16 bytes")
    multiplier, gain = CONSTANTS[quarters]
    library = load("gemv_trellis", y.device, {"QUARTERS": quarters})
    params = _Params(
        codes=codes.data_ptr(),
        row_scale=row_scale.data_ptr(),
        x=given.rows.data_ptr(),
        x_scale=given.scales.data_ptr(),
        y=y.data_ptr(),
        rows=rows,
        columns=columns,
        batch=batch,
        parts=given.parts,
        segment_bits=given.segment_bits,
        multiplier=multiplier,
        unit=1 / (DEVIATION * gain),
        alone=int(place.alone),
        early=int(place.early),
    )
    status = library.gemv_trellis(
        ctypes.byref(params),
        int(y.dtype == torch.bfloat16),
        processors(y.device.index or 0),
        ctypes.c_void_p(torch.cuda.current_stream(y.device).cuda_stream),
    )
    check(status, "gemv_trellis")
