r"""Codebooks of `tcq` trained with the search in the loop (the principle of Linde, Buzo and Gray, 1980,
doi:10.1109/TCOM.1980.1094577, for trellis codes: Marcellin and Fischer, 1990, doi:10.1109/26.46532).

k-means of the plane makes the best table where every state may follow; a path through the trellis uses it otherwise.
Every round finds the paths of a Gaussian training source and moves each entry to the mean of the points coded by it
(the sign of the hash undone). Neither half raises the training distortion, the search up to its choice of seam. The map
from states to entries stays: at L = 16 the published hash of 2^e entries, below it every state has its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from quantizers.codebooks import computed, fingerprint
from quantizers.trellis.hashed import hashed_entries
from quantizers.trellis.part import seam_window
from quantizers.trellis.states import PUBLISHED_STATE_BITS, gain, state_table, state_values, table_shape
from quantizers.trellis.tiles import STEPS
from quantizers.trellis.viterbi import closest_paths

ROUNDS = 12
WEIGHTS_PER_ENTRY = 512  # 256 points: a mean of n points adds 1/n to the distortion of a fresh source
MOST_WEIGHTS = 1 << 21
SEED = 0


def rounds(step_bits: int, state_bits: int, *, weights: int, seed: int) -> Iterator[tuple[torch.Tensor, float]]:
    """Tables (float32), each with its distortion on `weights` Gaussian numbers; the first is the plain one."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(weights // (2 * STEPS), STEPS, 2, generator=generator)
    table = state_table(step_bits, state_bits).to(torch.float32)
    scale = gain(table, step_bits, state_bits)
    entry, negative = torch.arange(1 << state_bits), torch.zeros(1 << state_bits, dtype=torch.bool)
    if state_bits == PUBLISHED_STATE_BITS:
        entry, negative = hashed_entries(len(table), state_bits)
    flip = torch.stack([1 - 2 * negative.to(torch.float32), torch.ones(1 << state_bits)], dim=1)
    window = seam_window(step_bits, state_bits)
    while True:
        values = state_values(table, state_bits) / scale
        states = torch.from_numpy(closest_paths(source.numpy(), values.numpy(), step_bits, window=window)).long()
        error = (source - values[states]).square().sum(dtype=torch.float64) / source.square().sum(dtype=torch.float64)
        yield table, error.item()
        points = (source * flip[states] * scale).view(-1, 2).double()
        used = entry[states].view(-1)
        count = torch.bincount(used, minlength=len(table)).double()[:, None]
        total = torch.zeros(len(table), 2, dtype=torch.float64).index_add_(0, used, points)
        table = torch.where(count > 0, total / count.clamp_min(1), table.double()).to(torch.float32)


def trained_table(step_bits: int, state_bits: int) -> torch.Tensor:
    """The codebook after ROUNDS rounds, float16, from the cache folder or trained (half a minute at 3 bits)."""
    shape = table_shape(step_bits, state_bits)
    weights = min(WEIGHTS_PER_ENTRY * shape[0], MOST_WEIGHTS)

    def compute() -> NDArray[np.float64]:
        steps = rounds(step_bits, state_bits, weights=weights, seed=SEED)
        table = next(steps)[0]
        for _ in range(ROUNDS):
            table = next(steps)[0]
        return table.double().numpy()

    start = state_table(step_bits, state_bits)
    settings = f"{fingerprint(start)}-{gain(start, step_bits, state_bits)}-{weights}-{ROUNDS}-{SEED}"
    name = f"trained-tcq-{step_bits}-{state_bits}-{settings}"
    return computed(name, shape, compute)
