"""Activations as bytes along four directions of each pair (`cuda/pair_bytes.cuh`): what `trellis2` is multiplied with.

A component is scale (hi + lo / 254): two rows of bytes up to a batch of 4, hi alone beyond, where the products have no
room for more. A scale holds for a segment of a row: a Hadamard block where the rotation makes the bytes
(`block_rotation`), the whole row where they are made of numbers in 16 bits (`made`)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from quantizers.kernels.build import check, load

MOST_FINE = 4  # of the batch, with two rows each
DTYPES = (torch.float16, torch.bfloat16)


class _Params(ctypes.Structure):
    """Mirrors `PairBytesParams` of cuda/pair_bytes.cu."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("bytes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("batch", ctypes.c_int),
        ("columns", ctypes.c_int),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairBytes:
    """rows (batch, parts, 2 columns) uint8; scales (batch, segments) float32, of 2^segment_bits columns each; dtype: of
    the activations, and of products with them."""

    dtype: torch.dtype
    rows: torch.Tensor
    scales: torch.Tensor
    segment_bits: int

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, columns) of the activations."""
        return len(self.rows), self.rows.shape[2] // 2

    @property
    def parts(self) -> int:
        """Bytes of a component."""
        return self.rows.shape[1]

    @classmethod
    def like(cls, x: torch.Tensor, columns: int, segment_bits: int) -> PairBytes:
        """Room for activations (batch, columns) of the batch, dtype and device of x."""
        batch = len(x)
        parts, segments = 2 if batch <= MOST_FINE else 1, -(-columns >> segment_bits)
        return cls(
            dtype=x.dtype,
            rows=x.new_empty(batch, parts, 2 * columns, dtype=torch.uint8),
            scales=x.new_empty(batch, segments, dtype=torch.float32),
            segment_bits=segment_bits,
        )


def made(x: torch.Tensor) -> PairBytes:
    """Of x (batch, columns), float16 or bfloat16, contiguous, columns a multiple of 64; on the current stream."""
    batch, columns = x.shape
    if x.dtype not in DTYPES or columns % 64 or not x.is_contiguous() or x.data_ptr() % 16:
        raise ValueError(f"x is float16 or bfloat16, contiguous, of 64 n columns; not {x.dtype} of {tuple(x.shape)}")
    found = PairBytes.like(x, columns, max(8, (columns - 1).bit_length()))
    params = _Params(
        x=x.data_ptr(), bytes=found.rows.data_ptr(), scales=found.scales.data_ptr(), batch=batch, columns=columns
    )
    stream = ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream)
    library = load("pair_bytes", x.device)
    check(library.pair_bytes(ctypes.byref(params), found.parts, int(x.dtype == torch.bfloat16), stream), "pair_bytes")
    return found
