"""Which state map a trellis uses: at L = 16 the published hash, below it a spiral with one point a state."""

from __future__ import annotations

import torch

from quantizers.trellis.hashed import entries, entry_bits, hashed_values
from quantizers.trellis.spiral import spiral

PUBLISHED_STATE_BITS = 16

# A state stands for the values c(s) / gain of a source of variance one. The gain minimizes the distortion of a Gaussian
# source: searched in steps of 0.01 on 2^17 weights. Keys: k new bits a step and, at L = 16, the size of the table (e),
# which half-tcq takes from its higher rate. Published: 0.9 at every rate, up to 20 % more distortion at high rates.
HASHED_GAIN = {
    (3, 9): 1.01,
    (4, 9): 0.95,
    (5, 9): 0.9,
    (6, 9): 0.85,
    (7, 9): 0.81,
    (8, 9): 0.77,
    (8, 10): 0.81,
    (9, 10): 0.76,
    (9, 11): 0.82,
    (10, 11): 0.77,
}
SPIRAL_GAIN = {3: 1.02, 4: 0.97, 5: 0.94, 6: 0.91, 7: 0.88, 8: 0.85, 9: 0.82, 10: 0.8}


def gain(table: torch.Tensor, step_bits: int, state_bits: int) -> float:
    """Standard deviation that the source is scaled to, for k new bits a step and L state bits."""
    if state_bits == PUBLISHED_STATE_BITS:
        return HASHED_GAIN[step_bits, table.shape[0].bit_length() - 1]
    return SPIRAL_GAIN[step_bits]


def state_table(step_bits: int, state_bits: int) -> torch.Tensor:
    """The codebook for k new bits a step (half-tcq: of the higher rate), float16: the hash's entries or all states."""
    return entries(entry_bits(step_bits)) if state_bits == PUBLISHED_STATE_BITS else spiral(state_bits)


def state_values(table: torch.Tensor, step_bits: int, state_bits: int) -> torch.Tensor:
    """The two values of every state, (2^L, 2) float32 on the device of the codebook, over the gain."""
    hashed = state_bits == PUBLISHED_STATE_BITS
    values = hashed_values(table, state_bits) if hashed else table.to(torch.float32)
    return values / gain(table, step_bits, state_bits)


def table_shape(step_bits: int, state_bits: int) -> tuple[int, int]:
    """Shape of `state_table`."""
    return (1 << (entry_bits(step_bits) if state_bits == PUBLISHED_STATE_BITS else state_bits), 2)
