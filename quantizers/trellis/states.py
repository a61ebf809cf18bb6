"""Which state map a trellis uses: at L = 16 the published hash, below it a spiral with one point a state."""

from __future__ import annotations

import torch

from quantizers.trellis.hashed import entries, entry_bits, hashed_values
from quantizers.trellis.spiral import spiral

PUBLISHED_STATE_BITS = 16

# A state stands for the values c(s) / gain of a source of variance one. The gain minimizes the distortion of a Gaussian
# source, to 0.1 %: searched on 2^19 weights at L = 16, 2^17 below. Keys: k new bits a step and, at L = 16, the size of
# the table (e), which half-tcq takes from its higher rate. Published: 0.9 at every rate, up to 7 % more distortion.
HASHED_GAIN = {
    (3, 9): 1.01,
    (4, 9): 0.96,
    (5, 9): 0.92,
    (6, 9): 0.88,
    (7, 9): 0.84,
    (8, 9): 0.78,
    (8, 10): 0.83,
    (9, 10): 0.79,
    (9, 11): 0.82,
    (10, 11): 0.76,
}
SPIRAL_GAIN = {3: 1.02, 4: 0.97, 5: 0.94, 6: 0.91, 7: 0.88, 8: 0.85, 9: 0.82, 10: 0.8}
PUBLISHED_GAIN = 0.9


def gain(table: torch.Tensor, step_bits: int, state_bits: int) -> float:
    """Standard deviation that the source is scaled to, for k new bits a step and L state bits."""
    if state_bits == PUBLISHED_STATE_BITS:
        return HASHED_GAIN[step_bits, table.shape[0].bit_length() - 1]
    return SPIRAL_GAIN[step_bits]


def state_table(step_bits: int, state_bits: int) -> torch.Tensor:
    """The codebook for k new bits a step (half-tcq: of the higher rate), float16: the hash's entries or all states."""
    return entries(entry_bits(step_bits)) if state_bits == PUBLISHED_STATE_BITS else spiral(state_bits)


def state_values(table: torch.Tensor, state_bits: int) -> torch.Tensor:
    """The two values of every state, (2^L, 2) float32 on the device of the codebook, gain not applied."""
    return hashed_values(table, state_bits) if state_bits == PUBLISHED_STATE_BITS else table.to(torch.float32)


def table_shape(step_bits: int, state_bits: int) -> tuple[int, int]:
    """Shape of `state_table`."""
    return (1 << (entry_bits(step_bits) if state_bits == PUBLISHED_STATE_BITS else state_bits), 2)
