r"""A matrix as tiles of 16 x 16 weights, each one tail-biting trellis of 128 steps of two weights, and their bits.

Tiles are row-major in the matrix, weights row-major in a tile; partial tiles are filled with zeros. A step adds k bits
to its tile's stream, low bit first, and the state is the window of the last L bits, cyclic:

    stream bits k t .. k t + k - 1  =  n_t;    s_t = stream bits k (t + 1) - L .. k (t + 1) - 1  (mod 128 k)
                                               = (s_(t-1) >> k) | (n_t << (L - k))

A tile takes 16 k bytes exactly."""

from __future__ import annotations

import torch

from quantizers.packing import pack

SIDE = 16
STEPS = SIDE * SIDE // 2


def tile_grid(out_features: int, in_features: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-out_features // SIDE), -(-in_features // SIDE)


def to_tiles(matrix: torch.Tensor) -> torch.Tensor:
    """(out, in) -> (tiles, 128, 2), zero-filled."""
    rows, columns = tile_grid(*matrix.shape)
    filled = torch.nn.functional.pad(matrix, (0, columns * SIDE - matrix.shape[1], 0, rows * SIDE - matrix.shape[0]))
    return filled.view(rows, SIDE, columns, SIDE).transpose(1, 2).reshape(rows * columns, STEPS, 2)


def from_tiles(tiles: torch.Tensor, out_features: int, in_features: int) -> torch.Tensor:
    """(tiles, 128, 2) -> (out, in), the fill cut off."""
    rows, columns = tile_grid(out_features, in_features)
    filled = tiles.view(rows, columns, SIDE, SIDE).transpose(1, 2).reshape(rows * SIDE, columns * SIDE)
    return filled[:out_features, :in_features]


def states_to_codes(states: torch.Tensor, step_bits: int, state_bits: int) -> torch.Tensor:
    """States (tiles, 128) of cyclic paths -> (tiles * 16 k,) uint8."""
    return pack(states.to(torch.int32) >> (state_bits - step_bits), step_bits)


def codes_to_states(codes: torch.Tensor, step_bits: int, state_bits: int) -> torch.Tensor:
    """(tiles * 16 k,) uint8 -> states (tiles, 128) int32, by cyclic windows of L bits (at most three bytes each)."""
    size = STEPS * step_bits // 8
    first = (step_bits * torch.arange(1, STEPS + 1, device=codes.device) - state_bits) % (8 * size)
    tiles = codes.view(-1, size)
    window = tiles[:, first // 8].to(torch.int32)
    window |= tiles[:, (first // 8 + 1) % size].to(torch.int32) << 8
    window |= tiles[:, (first // 8 + 2) % size].to(torch.int32) << 16
    return (window >> (first % 8).to(torch.int32)) & ((1 << state_bits) - 1)
