r"""The published state map, used at L = 16: a hash of the state picks one of few entries and a sign.

    h = s (s + 1) mod 2^32;   entry = bits 15-e .. 14 of h;   bit 15 of h set: the first coordinate is negated

with 2^e entries, k-means of a standard two-dimensional Gaussian that ends early (quantizers.sampled_k_means), rescaled
so that all coordinates of all entries have standard deviation 0.968 (Q-Palette, Lee and Song, 2025, arXiv 2509.20214,
after QTIP, Tseng et al., 2024, arXiv 2406.11235): e = 9, but 10 at 9 new bits a step and 11 at 10. A GPU keeps the
entries in shared memory. The end is part of the method: with converged entries tcq-4 has 10 % more distortion at the
published scale of 0.9, and 3 % more at the best one."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from quantizers.codebooks import computed
from quantizers.sampled_k_means import sampled_k_means

DEVIATION = 0.968
SAMPLES = 1 << 18  # published: 2^20, which changes nothing beyond the 0.5 % between one random start and another
THRESHOLD = 1e-5
SEED = 0


def entry_bits(step_bits: int) -> int:
    """e for k new bits a step."""
    return max(9, step_bits + 1) if step_bits > 8 else 9


@cache
def entries(bits: int) -> torch.Tensor:
    """(2^bits, 2) float16, ascending in the first coordinate."""

    def compute() -> NDArray[np.float64]:
        rng = np.random.default_rng(SEED)
        points = sampled_k_means(1 << bits, samples=SAMPLES, threshold=THRESHOLD, rng=rng)
        return points * (DEVIATION / np.sqrt((points * points).mean()))

    return computed(f"tcq-{bits}-{SAMPLES}-{THRESHOLD:g}-{SEED}", (1 << bits, 2), compute)


def hashed_entries(count: int, state_bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The entry (2^state_bits,) int64, of `count` = 2^e, that each state picks, and whether it negates the first
    coordinate, bool."""
    bits = count.bit_length() - 1
    s = torch.arange(1 << state_bits, dtype=torch.int64)
    h = s * (s + 1)
    return (h >> (15 - bits)) & (count - 1), (h >> 15 & 1).to(torch.bool)


def hashed_values(table: torch.Tensor, state_bits: int) -> torch.Tensor:
    """(2^state_bits, 2) float32 on the device of the entries (2^e, 2)."""
    entry, negative = (index.to(table.device) for index in hashed_entries(table.shape[0], state_bits))
    values = table.to(torch.float32)[entry]
    values[:, 0] *= torch.where(negative, -1.0, 1.0)
    return values
