"""y = x W^T from packed codes that stand for two weights each (`cuda/gemv_table.cu`), batch 1 to 16: by a table, the
families `tcq` and `half-tcq`, their trained and published kin, `vq` and `nuq`; computed, `trellis2`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from quantizers import FAMILIES
from quantizers.base import Quantizer
from quantizers.kernels.activation_bytes import DTYPES, ActivationBytes, Form, of_form
from quantizers.kernels.build import check, load
from quantizers.kernels.gemv import MOST_BATCH, processors
from quantizers.kernels.place import Place
from quantizers.scalar import NonUniform
from quantizers.trellis import ComputedPair, HalfTrellis, Trellis, computed_pair
from quantizers.trellis.half import first_columns
from quantizers.trellis.states import table_shape
from quantizers.vector import Vector

MOST_PAIR_BITS = 5  # of nuq: a table of pairs of levels has 2^(2 bits) entries, beyond it each level is looked up alone


class _Params(ctypes.Structure):
    """Mirrors `TableParams` of cuda/gemv_table.cu."""

    _fields_ = (
        ("codes", ctypes.c_void_p * 2),
        ("codebook", ctypes.c_void_p),
        ("row_scale", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("x_scale", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("unit", ctypes.c_float * 2),
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("batch", ctypes.c_int),
        ("first_columns", ctypes.c_int),
        ("scalar", ctypes.c_int),
        ("multiplier", ctypes.c_uint32),
        ("parts", ctypes.c_int),
        ("segment_bits", ctypes.c_int),
        ("alone", ctypes.c_int),
        ("early", ctypes.c_int),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """How a quantizer is multiplied with. `defines`: of its library; `pair_bits`: of the code of two weights, in the
    first and in the second part of the columns (one part: the same); `gains`: what their table entries are divided by;
    `codebook_shape`: None where weights are computed, by `multiplier`; `scalar`: the codebook holds levels, not pairs;
    `split`: columns of the first part."""

    defines: Mapping[str, int]
    pair_bits: tuple[int, int]
    codebook_shape: tuple[int, ...] | None
    scalar: bool = False
    multiplier: int = 0
    split: Callable[[int], int]
    gains: Callable[[], tuple[float, float]]


def _all_columns(columns: int) -> int:
    return columns


def _no_gains() -> tuple[float, float]:
    return (1.0, 1.0)


def _trellis_gains(quantizer: Trellis) -> tuple[float, float]:
    return (quantizer.gain, quantizer.gain)


def _half_gains(quantizer: HalfTrellis) -> tuple[float, float]:
    settings = quantizer.settings()
    return (float(settings["gain"]), float(settings["second_gain"]))


def _trellis(quantizer: Trellis) -> Instance:
    k, L = quantizer.step_bits, quantizer.state_bits
    return Instance(
        defines={"STEP_BITS": k, "STATE_BITS": L, "HALF": 0, "LEVELS": 0},
        pair_bits=(k, k),
        codebook_shape=table_shape(k, L),
        split=_all_columns,
        gains=partial(_trellis_gains, quantizer),
    )


def _half(quantizer: HalfTrellis) -> Instance:
    k, L = quantizer.step_bits, quantizer.state_bits
    return Instance(
        defines={"STEP_BITS": k, "STATE_BITS": L, "HALF": 1, "LEVELS": 0},
        pair_bits=(k, k + 1),
        codebook_shape=table_shape(k + 1, L),
        split=first_columns,
        gains=partial(_half_gains, quantizer),
    )


def _pair_gains(quantizer: ComputedPair) -> tuple[float, float]:
    unit = computed_pair.DEVIATION * computed_pair.CONSTANTS[quantizer.step_bits][1]
    return (unit, unit)


def _pair(quantizer: ComputedPair) -> Instance:
    k, L = quantizer.step_bits, quantizer.state_bits
    return Instance(
        defines={"STEP_BITS": k, "STATE_BITS": L, "HALF": 0, "LEVELS": 0, "COMPUTED": 1},
        pair_bits=(k, k),
        codebook_shape=None,
        multiplier=computed_pair.CONSTANTS[k][0],
        split=_all_columns,
        gains=partial(_pair_gains, quantizer),
    )


def _vector(quantizer: Vector) -> Instance:
    bits = quantizer.index_bits
    return Instance(
        defines={"INDEX_BITS": bits, "LEVELS": 0},
        pair_bits=(bits, bits),
        codebook_shape=(1 << bits, 2),
        split=_all_columns,
        gains=_no_gains,
    )


def _scalar(quantizer: NonUniform) -> Instance:
    bits = quantizer.bits
    return Instance(
        defines={"INDEX_BITS": 2 * bits, "LEVELS": int(bits > MOST_PAIR_BITS)},
        pair_bits=(2 * bits, 2 * bits),
        codebook_shape=(1 << bits,),
        scalar=True,
        split=_all_columns,
        gains=_no_gains,
    )


_INSTANCES: Mapping[type[Quantizer], Callable[[Any], Instance]] = {
    Trellis: _trellis,
    HalfTrellis: _half,
    ComputedPair: _pair,
    Vector: _vector,
    NonUniform: _scalar,
}


def multiplied(quantizer: Quantizer) -> bool:
    """Whether this kernel multiplies with the quantizer's codes."""
    return type(quantizer) in _INSTANCES


@cache
def instance(quantizer: Quantizer) -> Instance:
    """How the quantizer is multiplied with. ValueError where its codes are not those of pairs."""
    if not multiplied(quantizer):
        raise ValueError(f"{quantizer.name} is not multiplied by pairs: tcq, half-tcq, trellis2, vq and nuq are")
    return _INSTANCES[type(quantizer)](quantizer)


@cache
def units(quantizer: Quantizer) -> tuple[float, float]:
    """What a table entry of 1 stands for, in each part of the columns."""
    first, second = instance(quantizer).gains()
    return (1 / first, 1 / second)


def all_defines() -> Iterator[Mapping[str, int]]:
    """The defines of every library for the families at their published number of state bits, each once."""
    seen: list[Mapping[str, int]] = []
    for family in FAMILIES:
        for make in family.members.values():
            quantizer = make(16)
            if multiplied(quantizer) and (defines := instance(quantizer).defines) not in seen:
                seen.append(defines)
                yield defines


def first_bytes(quantizer: Quantizer, codes: torch.Tensor, rows: int, columns: int) -> int:
    """Bytes of the first part of the columns. ValueError unless the codes are those of such a matrix."""
    how = instance(quantizer)
    first = how.split(columns)
    before = rows * first // 16 * how.pair_bits[0]
    size = before + rows * (columns - first) // 16 * how.pair_bits[1]
    if codes.numel() != size or codes.dtype != torch.uint8:
        raise ValueError(f"{codes.numel()} bytes of codes are not the {size} of {quantizer.name}, {rows} x {columns}")
    return before


def check_codebook(quantizer: Quantizer, codebook: torch.Tensor | None) -> None:
    """ValueError unless it is of the quantizer's shape, or none where it has none."""
    shape = instance(quantizer).codebook_shape
    if codebook is None or shape is None:
        if codebook is not None or shape is not None:
            raise ValueError(f"{quantizer.name} {'needs a' if shape else 'takes no'} codebook")
    elif tuple(codebook.shape) != shape or codebook.dtype != torch.float16:
        raise ValueError(
            f"the codebook of {quantizer.name} is float16 of shape {shape}, "
            f"not {codebook.dtype} of {tuple(codebook.shape)}"
        )
    elif not codebook.is_contiguous() or codebook.data_ptr() % 4:
        raise ValueError("the codebook is contiguous and begins at a multiple of 4 bytes")


def multiply(
    quantizer: Quantizer,
    codebook: torch.Tensor | None,
    codes: torch.Tensor,
    row_scale: torch.Tensor,
    x: torch.Tensor | ActivationBytes,
    y: torch.Tensor,
    *,
    place: Place = Place.BETWEEN_ROTATIONS,
) -> None:
    """y (batch, rows) = x (batch, columns) W^T, into `y`, on the current stream of the device.

    codes, row_scale: as the quantizer stores them; codebook: its own, on the device, None for trellis2; x and y float16
    or bfloat16 (then the codebook is rounded to bfloat16), sums float32 in a fixed order. trellis2 reads bytes, which
    are made first of an x that is none. place: what is launched before and behind. ValueError on what the kernel does
    not take: rows a multiple of 16, columns of 64, batch 1 to 16, tensors contiguous, codes, row_scale and x from
    multiples of 16 bytes."""
    how = instance(quantizer)
    batch, columns = x.shape
    rows = y.shape[1]
    if rows % 16 or columns % 64 or not rows or not columns or not 1 <= batch <= MOST_BATCH or y.shape[0] != batch:
        raise ValueError(
            f"rows are a multiple of 16, columns of 64, batch 1 to {MOST_BATCH}; not {rows}, {columns}, {batch}"
        )
    if how.codebook_shape is None:
        x = of_form(x, Form.PAIRS)
    elif not isinstance(x, torch.Tensor):
        raise ValueError(f"{quantizer.name} is multiplied with float16 or bfloat16, not with bytes")
    if x.dtype not in DTYPES or y.dtype != x.dtype:
        raise ValueError(f"x and y are both float16 or both bfloat16, not {x.dtype} and {y.dtype}")
    rows_of_x = x if isinstance(x, torch.Tensor) else x.rows
    before = first_bytes(quantizer, codes, rows, columns)
    check_codebook(quantizer, codebook)
    if row_scale.shape != (rows,) or row_scale.dtype != torch.float16:
        raise ValueError(f"row_scale is float16 of shape ({rows},), not {row_scale.dtype} of {tuple(row_scale.shape)}")
    if not all(t.is_contiguous() for t in (codes, row_scale, rows_of_x, y)):
        raise ValueError("codes, row_scale, x and y are contiguous")
    if any(t.data_ptr() % 16 for t in (codes, row_scale, rows_of_x)):
        raise ValueError("codes, row_scale and x begin at multiples of 16 bytes")
    library = load("gemv_table", y.device, how.defines)
    params = _Params(
        codes=(codes.data_ptr(), codes.data_ptr() + before),
        codebook=None if codebook is None else codebook.data_ptr(),
        row_scale=row_scale.data_ptr(),
        x=rows_of_x.data_ptr(),
        x_scale=None if isinstance(x, torch.Tensor) else x.scales.data_ptr(),
        y=y.data_ptr(),
        unit=units(quantizer),
        rows=rows,
        columns=columns,
        batch=batch,
        first_columns=how.split(columns),
        scalar=int(how.scalar),
        multiplier=how.multiplier,
        parts=1 if isinstance(x, torch.Tensor) else x.parts,
        segment_bits=30 if isinstance(x, torch.Tensor) else x.segment_bits,
        alone=int(place.alone),
        early=int(place.early),
    )
    status = library.gemv_table(
        ctypes.byref(params),
        int(y.dtype == torch.bfloat16),
        processors(y.device.index or 0),
        ctypes.c_void_p(torch.cuda.current_stream(y.device).cuda_stream),
    )
    check(status, "gemv_table")
