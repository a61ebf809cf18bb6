"""Which states of a dynamic program go on: the undominated ones, and the order in which a beam keeps them.

One cost: a sweep over states sorted by cost, O(n log n). Two: the same over the first cost, with a Fenwick tree over
the second that holds the least loss so far (Fenwick, 1994, doi:10.1002/spe.4380240306), O(n log n)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def spread(cost: Ints, bound: Floats, step: int) -> Ints:
    """States in the order in which a beam keeps them: by bound, but the best of every remainder modulo `step` first.

    Where layers repeat, most moves are multiples of one step and only rare ones change the remainder that fills a
    limit; by bound alone a beam would hold none of those."""
    if len(cost) > 1:
        return np.argsort(bound, kind="stable")
    remainder = cost[0] % step
    order = np.lexsort((bound, remainder))
    fresh = np.append(True, remainder[order[1:]] != remainder[order[:-1]])
    first = np.flatnonzero(fresh)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first.repeat(np.diff(np.append(first, len(order))))
    return np.lexsort((bound, rank))


def undominated(cost: Ints, loss: Floats) -> Ints:
    """Positions of the states that no other beats in every cost and the loss (for three budgets or more: all)."""
    if len(cost) == 1:
        return _sweep(np.lexsort((loss, cost[0])), loss)
    if len(cost) == 2:
        levels, rank = np.unique(cost[1], return_inverse=True)
        return _sweep_two(np.lexsort((loss, cost[1], cost[0])), rank, len(levels), loss)
    return np.arange(len(loss))


@njit(cache=True)
def _sweep(order: Ints, loss: Floats) -> Ints:
    kept = np.empty(len(order), np.int64)
    count = 0
    best = np.inf
    for state in order:
        if loss[state] < best:
            best = loss[state]
            kept[count] = state
            count += 1
    return kept[:count].copy()


@njit(cache=True)
def _sweep_two(order: Ints, rank: Ints, levels: int, loss: Floats) -> Ints:
    """A Fenwick tree over the ranks of the second cost holds the least loss at or below each."""
    tree = np.full(levels + 1, np.inf)
    kept = np.empty(len(order), np.int64)
    count = 0
    for state in order:
        least = np.inf
        at = rank[state] + 1
        while at > 0:
            least = min(least, tree[at])
            at -= at & -at
        if loss[state] < least:
            kept[count] = state
            count += 1
            at = rank[state] + 1
            while at <= levels:
                tree[at] = min(tree[at], loss[state])
                at += at & -at
    return kept[:count].copy()
