"""Which state map a trellis uses: at L = 16 the published hash, below it a spiral with one point a state."""

from __future__ import annotations

import torch

from quantizers.trellis.hashed import entries, entry_bits, hashed_values
from quantizers.trellis.spiral import spiral

PUBLISHED_STATE_BITS = 16

# A state stands for the values c(s) / gain of a source of variance one. The gain of a rate minimizes the distortion of
# a Gaussian source; it was searched in steps of 0.01 on 2^20 weights (at L = 16: 2^18). Published: 0.9 at every rate.
HASHED_GAIN = {3: 0.9, 4: 0.9, 5: 0.9, 6: 0.9, 7: 0.9, 8: 0.9, 9: 0.9, 10: 0.9}
SPIRAL_GAIN = {3: 1.03, 4: 0.98, 5: 0.93, 6: 0.9, 7: 0.88, 8: 0.87, 9: 0.84, 10: 0.81}


def gain(step_bits: int, state_bits: int) -> float:
    """Standard deviation that the source is scaled to, for k new bits a step and L state bits."""
    return (HASHED_GAIN if state_bits == PUBLISHED_STATE_BITS else SPIRAL_GAIN)[step_bits]


def table_shape(step_bits: int, state_bits: int) -> tuple[int, int]:
    """Shape of the codebook: the entries of the hash, or all states."""
    return (1 << (entry_bits(step_bits) if state_bits == PUBLISHED_STATE_BITS else state_bits), 2)


def state_table(step_bits: int, state_bits: int) -> torch.Tensor:
    """The codebook, float16 of `table_shape`."""
    return entries(entry_bits(step_bits)) if state_bits == PUBLISHED_STATE_BITS else spiral(state_bits)


def state_values(table: torch.Tensor, step_bits: int, state_bits: int) -> torch.Tensor:
    """The two values of every state, (2^L, 2) float32 on the device of the codebook, over the gain."""
    hashed = state_bits == PUBLISHED_STATE_BITS
    values = hashed_values(table, state_bits) if hashed else table.to(torch.float32)
    return values / gain(step_bits, state_bits)
