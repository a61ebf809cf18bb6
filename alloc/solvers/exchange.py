"""Exchange: which moves away from a plan some best plan makes, where many groups can make the same move.

A best plan makes a move (the same extra cost in every budget) in the groups of least extra loss: whoever makes it later
in that order pays, besides its own r (see core.py), at least the least r of every group before it, none of which stays
as it is. Of many equal layers only as many are left as eps pays for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# sums of doubles: a share of eps for their last digits
ROUNDING = 1e-9


def exchanged(moves: Ints, extra_loss: Floats, r: Floats, group_of: Ints, eps: float) -> Ints:
    """Positions, in order, of the moves (budgets, moves) that a best plan with sum r <= `eps` may make.

    `extra_loss`, `r` and `group_of` are of each move; a move left out may raise the least r of its group, so the rule
    is repeated until nothing changes. O(moves log moves) a round, two or three rounds."""
    kept = np.arange(len(r))
    while True:
        least = np.full(int(group_of.max(initial=-1)) + 1, np.inf)
        np.minimum.at(least, group_of[kept], r[kept])
        order = kept[np.lexsort((extra_loss[kept], *moves[:, kept]))]
        fresh = np.ones(len(order), dtype=bool)
        fresh[1:] = (moves[:, order[1:]] != moves[:, order[:-1]]).any(axis=0)
        first = np.flatnonzero(fresh)
        paid = np.cumsum(least[group_of[order]]) - least[group_of[order]]
        before = paid - paid[first].repeat(np.diff(np.append(first, len(order))))
        left = order[before + r[order] <= eps * (1 + ROUNDING)]
        if len(left) == len(kept):
            return np.sort(left)
        kept = left
