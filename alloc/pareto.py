r"""Dominated options: o is dropped where another option of its group costs no more in every budget and loses no more.

One budget: sort by (cost, loss) and keep strictly falling losses, O(n log n). Two: the same sweep over the first cost
with a staircase of (second cost, loss), O(n log n + n f) for f kept options (the staircase is an array). More: against
all kept, O(n f). Of equal options the first stays. A group's kept options come out sorted by (costs, loss)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@njit(cache=True)
def fronts(offsets: Ints, loss: Floats, costs: Ints) -> tuple[Ints, Ints]:
    """Positions of the undominated options, group by group, and their group offsets.

    `offsets` (groups + 1,), `loss` (options,), `costs` (budgets, options)."""
    kept = np.empty(len(loss), np.int64)
    bounds = np.zeros(len(offsets), np.int64)
    filled = 0
    for group in range(len(offsets) - 1):
        start, stop = offsets[group], offsets[group + 1]
        order = start + np.argsort(loss[start:stop], kind="mergesort")
        for budget in range(len(costs) - 1, -1, -1):
            order = order[np.argsort(costs[budget][order], kind="mergesort")]
        if len(costs) == 1:
            filled = _one(order, loss, kept, filled)
        elif len(costs) == 2:
            filled = _two(order, loss, costs[1], kept, filled)
        else:
            filled = _many(order, loss, costs, kept, filled)
        bounds[group + 1] = filled
    return kept[:filled].copy(), bounds


@njit(cache=True)
def _one(order: Ints, loss: Floats, kept: Ints, filled: int) -> int:
    best = np.inf
    for option in order:
        if loss[option] < best:
            best = loss[option]
            kept[filled] = option
            filled += 1
    return filled


@njit(cache=True)
def _two(order: Ints, loss: Floats, second: Ints, kept: Ints, filled: int) -> int:
    # steps of the staircase: second cost rising, loss strictly falling
    step_cost = np.empty(len(order), np.int64)
    step_loss = np.empty(len(order), np.float64)
    steps = 0
    for option in order:
        cost, value = second[option], loss[option]
        at = np.searchsorted(step_cost[:steps], cost, side="right")
        if at > 0 and step_loss[at - 1] <= value:
            continue
        kept[filled] = option
        filled += 1
        if at > 0 and step_cost[at - 1] == cost:
            at -= 1
        end = at
        while end < steps and step_loss[end] >= value:
            end += 1
        shift = 1 - (end - at)
        if shift == 1:
            for i in range(steps, at, -1):
                step_cost[i], step_loss[i] = step_cost[i - 1], step_loss[i - 1]
        elif shift < 0:
            for i in range(end, steps):
                step_cost[i + shift], step_loss[i + shift] = step_cost[i], step_loss[i]
        step_cost[at], step_loss[at] = cost, value
        steps += shift
    return filled


@njit(cache=True)
def _many(order: Ints, loss: Floats, costs: Ints, kept: Ints, filled: int) -> int:
    first = filled
    for option in order:
        dominated = False
        for i in range(first, filled):
            other = kept[i]
            if loss[other] <= loss[option]:
                dominated = True
                for budget in range(len(costs)):
                    if costs[budget, other] > costs[budget, option]:
                        dominated = False
                        break
                if dominated:
                    break
        if not dominated:
            kept[filled] = option
            filled += 1
    return filled
