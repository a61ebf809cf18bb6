r"""Unsigned integers as one little-endian bit stream: value i holds the bits i b .. i b + b - 1, low bit first.

    stream bit p  =  bit (p mod 8) of byte floor(p / 8);   bytes = ceil(values x b / 8)

Plain torch, on the device of its input; a value spans at most three bytes, so b is at most 16."""

from __future__ import annotations

import torch


def packed_bytes(values: int, bits: int) -> int:
    """Bytes that so many values of so many bits take."""
    return -(-values * bits // 8)


def checked_codes(codes: torch.Tensor, size: int) -> torch.Tensor:
    """The codes; ValueError unless they are `size` bytes, uint8."""
    if codes.dtype != torch.uint8 or codes.numel() != size:
        raise ValueError(f"{size} bytes (uint8) of codes expected, not {codes.numel()} ({codes.dtype})")
    return codes


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers in [0, 2^bits), flattened, as (packed_bytes,) uint8. bits: 1..16."""
    assert 1 <= bits <= 16
    flat = values.reshape(-1).to(torch.int32)
    out = torch.zeros(packed_bytes(flat.numel(), bits), dtype=torch.uint8, device=flat.device)
    # Eight values fill `bits` bytes exactly: pad to whole groups, then every byte of a group is a sum of shifts.
    groups = -(-flat.numel() // 8)
    padded = torch.zeros(groups * 8, dtype=torch.int32, device=flat.device)
    padded[: flat.numel()] = flat
    padded = padded.view(groups, 8)
    whole = torch.zeros(groups, bits, dtype=torch.uint8, device=flat.device)
    for i in range(8):
        for byte in range(i * bits // 8, (i * bits + bits - 1) // 8 + 1):
            shift = 8 * byte - i * bits
            part = padded[:, i] >> shift if shift >= 0 else padded[:, i] << -shift
            whole[:, byte] |= (part & 255).to(torch.uint8)
    out.copy_(whole.view(-1)[: out.numel()])
    return out


def unpack(codes: torch.Tensor, bits: int, values: int) -> torch.Tensor:
    """The first `values` integers of a stream, (values,) int32. ValueError where the stream has another length."""
    assert 1 <= bits <= 16
    if codes.dtype != torch.uint8 or codes.numel() != packed_bytes(values, bits):
        raise ValueError(
            f"{values} codes of {bits} bits take {packed_bytes(values, bits)} bytes (uint8), "
            f"not {codes.numel()} ({codes.dtype})"
        )
    groups = -(-values // 8)
    whole = torch.zeros(groups * bits, dtype=torch.uint8, device=codes.device)
    whole[: codes.numel()] = codes
    whole = whole.view(groups, bits)
    out = torch.zeros(groups, 8, dtype=torch.int32, device=codes.device)
    for i in range(8):
        for byte in range(i * bits // 8, (i * bits + bits - 1) // 8 + 1):
            shift = 8 * byte - i * bits
            part = whole[:, byte].to(torch.int32)
            out[:, i] |= part << shift if shift >= 0 else part >> -shift
    return (out & ((1 << bits) - 1)).view(-1)[:values]
