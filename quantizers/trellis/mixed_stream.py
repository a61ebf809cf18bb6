r"""The bit stream of a tile of the `trellis` family: 256 steps of one weight, shifts that repeat every four steps.

A rate of a/4 bits makes four steps add a bits and a tile take 8 a bytes. Step t = 4 i + r puts its new bits n_t, low
bit first, at the stream bits a i + S_r .. (S_r: shifts before step r of a period), and its state is the window of the
last L bits, cyclic. Steps follow the operands of a 16-row integer matrix instruction, so that the weights which a
thread of a warp multiplies, two rows of a tile, are 32 steps in a row:

    step t = 32 g + j  <->  row g + 8 (j mod 2),  column floor(j / 2),     g < 8, j < 32."""

from __future__ import annotations

from functools import cache

import torch

from quantizers.trellis.computed import BLOCK, shifts
from quantizers.trellis.tiles import SIDE, from_tiles, to_tiles


@cache
def tile_order() -> torch.Tensor:
    """(256,) int64: the row-major place in its tile of the weight of every step."""
    t = torch.arange(BLOCK)
    row = t // 32 + 8 * (t % 2)
    column = 4 * (t // 8 % 4) + t % 8 // 2
    return row * SIDE + column


def to_steps(matrix: torch.Tensor) -> torch.Tensor:
    """(out, in) -> (tiles, 256) in the order of the steps, zero-filled."""
    return to_tiles(matrix).reshape(-1, BLOCK)[:, tile_order().to(matrix.device)]


def from_steps(steps: torch.Tensor, out_features: int, in_features: int) -> torch.Tensor:
    """(tiles, 256) in the order of the steps -> (out, in), the fill cut off."""
    tiles = torch.empty_like(steps)
    tiles[:, tile_order().to(steps.device)] = steps
    return from_tiles(tiles, out_features, in_features)


def tile_bytes(quarters: int) -> int:
    """Bytes of the codes of a tile."""
    return BLOCK * quarters // 32


def symbols_to_codes(symbols: torch.Tensor, quarters: int) -> torch.Tensor:
    """New bits of every step (tiles, 256) uint8 -> (tiles * 8 a,) uint8."""
    periods = symbols.reshape(-1, 4)
    bits = torch.empty((len(periods), quarters), dtype=torch.uint8, device=symbols.device)
    at = 0
    for r, k in enumerate(shifts(quarters)):
        for bit in range(k):
            bits[:, at] = periods[:, r] >> bit & 1
            at += 1
    octets = bits.view(-1, 8)
    codes = torch.zeros(len(octets), dtype=torch.uint8, device=symbols.device)
    for bit in range(8):
        codes |= octets[:, bit] << bit
    return codes


def codes_to_states(codes: torch.Tensor, quarters: int, state_bits: int) -> torch.Tensor:
    """(tiles * 8 a,) uint8 -> states (tiles, 256) int32: cyclic windows of L <= 18 bits, in at most four bytes each."""
    size = tile_bytes(quarters)
    ends = torch.tensor(shifts(quarters), device=codes.device).repeat(BLOCK // 4).cumsum(0)
    first = (ends - state_bits) % (8 * size)
    tiles = codes.view(-1, size)
    window = torch.zeros((len(tiles), BLOCK), dtype=torch.int32, device=codes.device)
    for byte in range(4):
        window |= tiles[:, (first // 8 + byte) % size].to(torch.int32) << (8 * byte)
    # bit 31 may make a window negative: the arithmetic shift fills from above what the mask then drops
    return (window >> (first % 8).to(torch.int32)) & ((1 << state_bits) - 1)


def path_states(symbols: torch.Tensor, quarters: int, state_bits: int) -> torch.Tensor:
    """States (tiles, 256) int32 of the cyclic paths with these new bits."""
    return codes_to_states(symbols_to_codes(symbols, quarters), quarters, state_bits)
