r"""One normalized matrix at one rate: the search, its bits and back; what `tcq`, `half-tcq` and `trellis2` are made of.

The source has variance near one, and so have the decoded values, up to their distortion: with the gain that minimizes
it (quantizers.trellis.states) their least-squares scale is one, so that two rates can share the scale of a row."""

from __future__ import annotations

import numpy as np
import torch

from quantizers.packing import checked_codes
from quantizers.trellis.tiles import STEPS, codes_to_states, from_tiles, states_to_codes, tile_grid, to_tiles
from quantizers.trellis.viterbi import closest_paths


def seam_window(step_bits: int, state_bits: int) -> int:
    """Steps on either side of the seam in the free pass that closes a path.

    Measured against 64 (all steps): within 0.06 % in distortion at every rate, L = 12 to 16; a fixed 32 is 0.5 % worse
    at 1.5 bits, and a second seam half a tile away gains less than 0.02 % more."""
    return min(STEPS // 2, -(-16 * state_bits // step_bits))


def checked_state_bits(state_bits: int, step_bits: int) -> None:
    """ValueError unless max(8, k) <= L <= 16."""
    if not max(8, step_bits) <= state_bits <= 16:
        raise ValueError(f"state_bits is {max(8, step_bits)} to 16 at {step_bits} new bits a step, not {state_bits}")


def part_bytes(out_features: int, in_features: int, step_bits: int) -> int:
    """Bytes of the codes: 16 k a tile."""
    rows, columns = tile_grid(out_features, in_features)
    return rows * columns * 16 * step_bits


def closest_states(source: torch.Tensor, values: torch.Tensor, step_bits: int) -> torch.Tensor:
    """The paths (rows of tiles, columns of tiles, 128) int32 of a source (out, in) float32 of variance near one.

    values: (2^L, 2) float32, what each state stands for."""
    window = seam_window(step_bits, _state_bits(values))
    found = closest_paths(to_tiles(source).numpy(), values.numpy(), step_bits, window=window)
    return torch.from_numpy(found.astype(np.int32)).view(*tile_grid(*source.shape), STEPS)


def path_values(states: torch.Tensor, values: torch.Tensor, out_features: int, in_features: int) -> torch.Tensor:
    """What paths (rows of tiles, columns of tiles, 128) stand for: (out, in) float32 on the device of the states."""
    return from_tiles(values.to(states.device)[states], out_features, in_features)


def path_codes(states: torch.Tensor, step_bits: int, state_bits: int) -> torch.Tensor:
    """Paths (rows of tiles, columns of tiles, 128) as (tiles * 16 k,) uint8."""
    return states_to_codes(states.reshape(-1, STEPS), step_bits, state_bits)


def decode_part(
    codes: torch.Tensor, values: torch.Tensor, step_bits: int, out_features: int, in_features: int
) -> torch.Tensor:
    """The decoded values (out, in) on the device of the codes. ValueError where the codes have another length."""
    checked_codes(codes, part_bytes(out_features, in_features, step_bits))
    states = codes_to_states(codes, step_bits, _state_bits(values))
    return path_values(states, values, out_features, in_features)


def _state_bits(values: torch.Tensor) -> int:
    return len(values).bit_length() - 1
