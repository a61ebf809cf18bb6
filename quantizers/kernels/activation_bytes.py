"""Activations as bytes (`cuda/activation_bytes.cuh`): what weights computed from four bytes are multiplied with.

A component is scale (hi + lo / 254): two rows of bytes up to a batch of 4, hi alone beyond, where the products have no
room for more. A scale holds for a segment of a row: a Hadamard block where the rotation makes the bytes
(`block_rotation`), the whole row where they are made of numbers in 16 bits (`made`)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import IntEnum

import torch

from quantizers.kernels.build import check, load

MOST_FINE = 4  # of the batch, with two rows each
LEAST_SEGMENT_BITS = 8
DTYPES = (torch.float16, torch.bfloat16)


class Form(IntEnum):
    """Components of a column: none, no bytes are read; `trellis` reads activations, `trellis2` those along the four
    directions of each pair of columns."""

    NONE = 0
    SINGLES = 1
    PAIRS = 2


class _Params(ctypes.Structure):
    """Mirrors `BytesParams` of cuda/activation_bytes.cu."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("bytes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("batch", ctypes.c_int),
        ("columns", ctypes.c_int),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActivationBytes:
    """rows (batch, parts, form columns) uint8; scales (batch, segments) float32, of 2^segment_bits columns each; dtype:
    of the activations, and of products with them."""

    form: Form
    dtype: torch.dtype
    rows: torch.Tensor
    scales: torch.Tensor
    segment_bits: int

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, columns) of the activations."""
        return len(self.rows), self.rows.shape[2] // self.form

    @property
    def parts(self) -> int:
        """Bytes of a component."""
        return self.rows.shape[1]

    @classmethod
    def like(cls, x: torch.Tensor, form: Form, *, columns: int, segment_bits: int) -> ActivationBytes:
        """Room for activations (batch, columns) of the batch, dtype and device of x."""
        batch = len(x)
        parts, segments = 2 if batch <= MOST_FINE else 1, -(-columns >> segment_bits)
        return cls(
            form=form,
            dtype=x.dtype,
            rows=x.new_empty(batch, parts, form * columns, dtype=torch.uint8),
            scales=x.new_empty(batch, segments, dtype=torch.float32),
            segment_bits=segment_bits,
        )


def made(x: torch.Tensor, form: Form) -> ActivationBytes:
    """Of x (batch, columns), float16 or bfloat16, contiguous, columns a multiple of 64; on the current stream."""
    batch, columns = x.shape
    if x.dtype not in DTYPES or columns % 64 or not x.is_contiguous() or x.data_ptr() % 16:
        raise ValueError(f"x is float16 or bfloat16, contiguous, of 64 n columns; not {x.dtype} of {tuple(x.shape)}")
    one = max(LEAST_SEGMENT_BITS, (columns - 1).bit_length())
    found = ActivationBytes.like(x, form, columns=columns, segment_bits=one)
    params = _Params(
        x=x.data_ptr(), bytes=found.rows.data_ptr(), scales=found.scales.data_ptr(), batch=batch, columns=columns
    )
    stream = ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream)
    library = load("activation_bytes", x.device)
    status = library.activation_bytes(
        ctypes.byref(params), int(form), found.parts, int(x.dtype == torch.bfloat16), stream
    )
    check(status, "activation_bytes")
    return found


def of_form(x: torch.Tensor | ActivationBytes, form: Form) -> ActivationBytes:
    """x as bytes of a form, made where it is none. ValueError where it is bytes of another, or a scale holds for less
    columns than products take."""
    if isinstance(x, torch.Tensor):
        return made(x, form)
    if x.form != form:
        raise ValueError(f"these products read bytes of form {form.name}, not {x.form.name}")
    if x.segment_bits < LEAST_SEGMENT_BITS:
        raise ValueError(f"a scale holds for 2^{LEAST_SEGMENT_BITS} columns at least, not 2^{x.segment_bits}")
    return x
