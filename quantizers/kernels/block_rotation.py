r"""R f of what a layer reads, f and the conversion to bytes in the same launch (`cuda/block_rotation.cu`).

    plain: f = x        normed: f = w (x + delta) / sqrt(mean((x + delta)^2) + eps)        gated: f = silu(gate) up

Rotations whose Hadamard blocks are 512, 1024 or 2048 have this kernel; for others `hadamard` rotates alone."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from quantizers.kernels.activation_bytes import DTYPES, ActivationBytes, Form
from quantizers.kernels.build import check, load
from quantizers.rotation import Rotation
from quantizers.rotation.signs import random_signs

BLOCK_BITS = (9, 10, 11)
PLAIN, NORM, ADDED_NORM, GATED = range(4)  # what the kernel calls sources


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """f: what the kernel calls it, and what it is made from; `plain`, `normed` and `gated` make one."""

    kind: int
    first: torch.Tensor
    second: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    eps: float = 0.0


def plain(x: torch.Tensor) -> Source:
    """x (batch, n) as it is."""
    return Source(PLAIN, x)


def normed(x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float) -> Source:
    """RMSNorm of x + delta (batch, n each; delta None: of x), weight (n,)."""
    return Source(NORM if delta is None else ADDED_NORM, x, delta, weight, eps)


def gated(gate: torch.Tensor, up: torch.Tensor) -> Source:
    """silu(gate) up, (batch, n) each, rows any distance apart."""
    return Source(GATED, gate, up)


class _Params(ctypes.Structure):
    """Mirrors `RotationParams` of cuda/block_rotation.cu."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("other", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
        ("flips", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("bytes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("other_stride", ctypes.c_int64),
        ("eps", ctypes.c_float),
        ("batch", ctypes.c_int),
        ("columns", ctypes.c_int),
    )


@lru_cache(maxsize=4096)
def flips(in_features: int, seed: int, group: str, device: torch.device) -> torch.Tensor:
    """(in_features / 8,) uint8, low bit first: where the sign is -1."""
    negative = random_signs(seed, group, in_features) < 0
    return torch.from_numpy(np.packbits(negative, bitorder="little")).to(device)


def takes(rotation: Rotation) -> bool:
    """Whether its Hadamard blocks are of an order that the kernel has."""
    return rotation.block in [1 << bits for bits in BLOCK_BITS]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rotated:
    """y (batch, n) in the dtype of the source, its bytes, None where not asked for; sum: x + delta where both are."""

    y: torch.Tensor | None
    bytes: ActivationBytes | None
    sum: torch.Tensor | None


def rotate(source: Source, rotation: Rotation, *, halves: bool, form: Form) -> Rotated:
    """On the current stream of the device. halves, form: which results are wanted.

    ValueError where the kernel does not take the rotation, or the tensors: float16 or bfloat16 of one dtype, numbers of
    a row side by side, rows from multiples of 16 bytes."""
    first, second, weight = source.first, source.second, source.weight
    batch, columns = first.shape
    given = [t for t in (first, second, weight) if t is not None]
    if not takes(rotation) or rotation.in_features != columns:
        raise ValueError(f"no kernel rotates {columns} numbers with {rotation}")
    if any(t.dtype != first.dtype or t.stride(-1) != 1 or t.data_ptr() % 16 or t.shape[-1] != columns for t in given):
        raise ValueError(f"rows of {columns} numbers of one dtype, side by side; not {[t.shape for t in given]}")
    if first.dtype not in DTYPES or any(t.stride(0) % 8 for t in given if t.ndim == 2 and batch > 1):
        raise ValueError(f"float16 or bfloat16, rows from multiples of 16 bytes; not {first.dtype}")
    bits = rotation.block.bit_length() - 1
    y = first.new_empty(batch, columns) if halves else None
    bytes_of = ActivationBytes.like(first, form, columns=columns, segment_bits=bits) if form is not Form.NONE else None
    total = first.new_empty(batch, columns) if source.kind == ADDED_NORM else None
    params = _Params(
        x=first.data_ptr(),
        other=_address(second),
        weight=_address(weight),
        sum=_address(total),
        flips=flips(columns, rotation.seed, rotation.group, first.device).data_ptr(),
        y=_address(y),
        bytes=_address(bytes_of.rows if bytes_of else None),
        scales=_address(bytes_of.scales if bytes_of else None),
        x_stride=first.stride(0),
        other_stride=0 if second is None else second.stride(0),
        eps=source.eps,
        batch=batch,
        columns=columns,
    )
    library = load("block_rotation", first.device, {"POWER_BITS": bits})
    parts = bytes_of.parts if bytes_of else 0
    stream = ctypes.c_void_p(torch.cuda.current_stream(first.device).cuda_stream)
    status = library.block_rotation(
        ctypes.byref(params), source.kind, int(form), parts, int(first.dtype == torch.bfloat16), stream
    )
    check(status, "block_rotation")
    return Rotated(y=y, bytes=bytes_of, sum=total)


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
