"""What holds for every path that the search of the computed trellis finds: no change of one symbol makes it cheaper."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from quantizers.trellis.computed import shifts
from quantizers.trellis.mixed_stream import path_states
from quantizers.trellis.mixed_viterbi import closest_symbols


def assert_no_change_is_cheaper(
    points: torch.Tensor, values: torch.Tensor, quarters: int, state_bits: int, steps: Iterable[int]
) -> None:
    """points: (tiles, 256) int16; values: (2^L,) int16; costs in int64. Steps near the seam, whose overlap is chosen by
    a shorter pass, are left out by the caller."""
    found = torch.from_numpy(closest_symbols(points.numpy(), values.numpy(), shifts(quarters), window=128))

    def costs(symbols: torch.Tensor) -> torch.Tensor:
        decoded = values.to(torch.int64)[path_states(symbols, quarters, state_bits)]
        return (points.to(torch.int64) - decoded).square().sum(1)

    best = costs(found)
    for t in steps:
        for change in range(1, 1 << shifts(quarters)[t % 4]):
            other = found.clone()
            other[:, t] ^= change
            assert bool((costs(other) >= best).all()), (t, change)
