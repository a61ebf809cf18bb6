"""The randomized Hadamard rotation of inputs on a GPU (`cuda/hadamard.cu`): what `Rotation.rotate_input` defines, for
Hadamard blocks that `block_rotation` does not take."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np
import torch

from quantizers.kernels.block_rotation import flips
from quantizers.kernels.build import check, load, most_shared
from quantizers.rotation import Rotation
from quantizers.rotation.transform import block_factors, dense_factor

MOST_ORDER = 128  # of the dense factor: its inputs are held in registers
MOST_SIZE = 32768  # of a block: its numbers are held in shared memory
DENSE_BYTES = 34 << 10  # of shared memory for the largest dense factor


class _Params(ctypes.Structure):
    """Mirrors `HadamardParams` of cuda/hadamard.cu."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("flips", ctypes.c_void_p),
        ("dense", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("rows", ctypes.c_int),
        ("segments", ctypes.c_int),
    )


def defines(rotation: Rotation) -> dict[str, int] | None:
    """Of the library for this rotation; None where there is none: two dense factors (576, 1152), or a block that is too
    small or too large, or whose dense factor is."""
    size, (power, *dense) = block_factors(rotation.in_features, rotation.most_block)
    orders = [order for order in dense if order & (order - 1)]
    power *= int(np.prod([order for order in dense if not order & (order - 1)], dtype=np.int64))
    if len(orders) > 1 or (orders and orders[0] > MOST_ORDER) or not 32 <= size <= MOST_SIZE or size % 32 or power < 2:
        return None
    return {"POWER_BITS": power.bit_length() - 1, "ORDER": orders[0] if orders else 1}


def fits(rotation: Rotation, device: torch.device) -> bool:
    """Whether the shared memory of the device holds a Hadamard block: 4 bytes a number, and padding."""
    return rotation.block * 17 // 4 + DENSE_BYTES <= most_shared(device)


@lru_cache(maxsize=64)
def _dense(order: int, device: torch.device) -> torch.Tensor:
    return dense_factor(order, torch.float32, device).contiguous()


def rotate(x: torch.Tensor, y: torch.Tensor, rotation: Rotation) -> None:
    """y = R x of every row, into `y`, on the current stream of the device. x, y: (rows, in), float16 or bfloat16.

    ValueError on a width that has no kernel (`defines`) or a dtype that is neither."""
    given = defines(rotation)
    if given is None or x.dtype not in (torch.float16, torch.bfloat16) or x.shape != y.shape or x.dtype != y.dtype:
        raise ValueError(f"no kernel rotates {x.dtype} of shape {tuple(x.shape)} into {tuple(y.shape)}")
    segments = rotation.in_features // rotation.block
    library = load("hadamard", x.device, given)
    params = _Params(
        x=x.data_ptr(),
        y=y.data_ptr(),
        flips=flips(rotation.in_features, rotation.seed, rotation.group, x.device).data_ptr(),
        dense=_dense(given["ORDER"], x.device).data_ptr(),
        scale=rotation.block**-0.5,
        rows=len(x) * segments,
        segments=segments,
    )
    stream = ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream)
    check(library.hadamard_rotation(ctypes.byref(params), int(x.dtype == torch.bfloat16), stream), "hadamard_rotation")
