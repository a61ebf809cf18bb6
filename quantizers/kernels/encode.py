"""The GPU search for the computed trellis code (`cuda/encode_trellis.cu`): 256 weights a tile."""

from __future__ import annotations

import ctypes

import torch

from quantizers.kernels.build import check, load, most_shared

BLOCK = 256
OTHER_BYTES = 1 << 10  # of shared memory beside the costs


class _Params(ctypes.Structure):
    """Mirrors `EncodeParams` of cuda/encode_trellis.cu."""

    _fields_ = (
        ("source", ctypes.c_void_p),
        ("symbols", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("scratch_bytes", ctypes.c_int64),
        ("tiles", ctypes.c_int64),
        ("multiplier", ctypes.c_uint32),
        ("window", ctypes.c_int),
    )


def fits(quarters: int, state_bits: int, device: torch.device) -> bool:
    """Whether the shared memory of the device holds a cost of 4 bytes for every overlap."""
    return (4 << state_bits - quarters // 4) + OTHER_BYTES <= most_shared(device)


def search_paths(source: torch.Tensor, quarters: int, *, multiplier: int, window: int) -> torch.Tensor:
    """The new bits of every step, (tiles, 256) uint8, of near-closest tail-biting paths.

    source: (tiles, 256) int16 on a CUDA device, in units of the code, at most 700 in size; quarters: 4 x rate, 5..24;
    window: steps on either side of the seam in the free pass that closes a path, a multiple of 4, at most 256.
    ValueError on a rate that is not built in; KernelUnavailableError without CUDA or compiler."""
    assert source.dtype == torch.int16
    assert source.is_contiguous()
    assert source.shape[1] == BLOCK
    assert window % 4 == 0
    assert 0 < window <= BLOCK
    encode = load("encode_trellis", source.device).encode_trellis
    symbols = torch.empty(source.shape, dtype=torch.uint8, device=source.device)
    blocks = min(len(source), 2 * torch.cuda.get_device_properties(source.device).multi_processor_count)
    scratch = ctypes.c_int64()
    params = _Params(
        source=source.data_ptr(),
        symbols=symbols.data_ptr(),
        tiles=len(source),
        multiplier=multiplier,
        window=window,
    )
    stream = ctypes.c_void_p(torch.cuda.current_stream(source.device).cuda_stream)
    status = encode(ctypes.byref(params), quarters, blocks, 1, ctypes.byref(scratch), stream)
    if status == -1:
        raise ValueError(f"the GPU encoder has rates from 1.25 to 6 bits in quarters, not {quarters / 4:g}")
    room = torch.empty((blocks, scratch.value), dtype=torch.uint8, device=source.device)
    params.scratch = room.data_ptr()
    with torch.cuda.device(source.device):
        check(encode(ctypes.byref(params), quarters, blocks, 0, ctypes.byref(scratch), stream), "encode_trellis")
    return symbols
