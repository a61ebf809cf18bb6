r"""One normalized matrix at one rate: the search, its bits and back; what `tcq` and `half-tcq` are made of.

The entries e(s) have a spread of their own, so a state stands for the values c(s) = e(s) / gain of a source of variance
one. The gain of a rate is the minimum of the measured distortion on a Gaussian source (experiments.measure_distortion;
0.9 / 0.968 of the published scale is 0.9 here). At the minimum the least-squares scale of the decoded values is one, so
that two rates can share a row's scale."""

from __future__ import annotations

import numpy as np
import torch

from quantizers.trellis.states import state_values
from quantizers.trellis.tiles import codes_to_states, from_tiles, states_to_codes, tile_grid, to_tiles
from quantizers.trellis.viterbi import closest_paths

WINDOW = 32  # steps on either side of the seam in the free pass
# Gain by k, new bits a step
GAINS = {3: 0.9, 4: 0.9, 5: 0.9, 6: 0.9, 7: 0.9, 8: 0.9, 9: 0.9, 10: 0.9}


def checked_state_bits(state_bits: int, step_bits: int) -> None:
    """ValueError unless max(8, k) <= L <= 16."""
    if not max(8, step_bits) <= state_bits <= 16:
        raise ValueError(f"state_bits is {max(8, step_bits)} to 16 at {step_bits} new bits a step, not {state_bits}")


def values(table: torch.Tensor, step_bits: int, state_bits: int) -> torch.Tensor:
    """c(s), (2^L, 2) float32 on the device of the entries."""
    return state_values(table, state_bits) / GAINS[step_bits]


def part_bytes(out_features: int, in_features: int, step_bits: int) -> int:
    """Bytes of the codes: 16 k a tile."""
    rows, columns = tile_grid(out_features, in_features)
    return rows * columns * 16 * step_bits


def encode_part(
    source: torch.Tensor, table: torch.Tensor, step_bits: int, state_bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes uint8, decoded values (out, in)) of a source (out, in) float32 of variance near one."""
    chosen = values(table, step_bits, state_bits)
    found = closest_paths(to_tiles(source).numpy(), chosen.numpy(), step_bits, window=WINDOW)
    states = torch.from_numpy(found.astype(np.int32))
    return states_to_codes(states, step_bits, state_bits), from_tiles(chosen[states], *source.shape)


def decode_part(
    codes: torch.Tensor, table: torch.Tensor, step_bits: int, state_bits: int, out_features: int, in_features: int
) -> torch.Tensor:
    """The decoded values (out, in) on the device of the codes. ValueError where the codes have another length."""
    size = part_bytes(out_features, in_features, step_bits)
    if codes.dtype != torch.uint8 or codes.numel() != size:
        raise ValueError(f"{size} bytes (uint8) of codes expected, not {codes.numel()} ({codes.dtype})")
    chosen = values(table.to(codes.device), step_bits, state_bits)
    return from_tiles(chosen[codes_to_states(codes, step_bits, state_bits)], out_features, in_features)
