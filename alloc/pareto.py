r"""Dominated options: o is dropped where another option of its group costs no more in every budget and loses no more.

One budget: sort by (cost, loss) and keep strictly falling losses, O(n log n). Two: the same sweep over the first cost
with a staircase of (second cost, loss), O(n log n + n f) for f kept options (the staircase is an array). More: against
all kept, O(n f). Of equal options the first stays. A group's kept options come out sorted by (costs, loss)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def fronts(offsets: Ints, loss: Floats, costs: Ints) -> tuple[Ints, Ints]:
    """Positions of the undominated options, group by group, and their group offsets.

    `offsets` (groups + 1,), `loss` (options,), `costs` (budgets, options)."""
    return _fronts(*(frozen(np.ascontiguousarray(array)) for array in (offsets, loss, costs)))


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: numba compiles a function once more for every mixture of read-only and writable arguments."""
    view = array.view()
    view.setflags(write=False)
    return view


@njit(cache=True)
def _fronts(offsets: Ints, loss: Floats, costs: Ints) -> tuple[Ints, Ints]:
    kept = np.empty(len(loss), np.int64)
    bounds = np.zeros(len(offsets), np.int64)
    order = np.arange(len(loss))
    filled = 0
    for group in range(len(offsets) - 1):
        start, stop = offsets[group], offsets[group + 1]
        _sort(order, start, stop, loss, costs)
        if len(costs) == 1:
            filled = _one(order, start, stop, loss, kept, filled)
        elif len(costs) == 2:
            filled = _two(order, start, stop, loss, costs, kept, filled)
        else:
            filled = _many(order, start, stop, loss, costs, kept, filled)
        bounds[group + 1] = filled
    return kept[:filled].copy(), bounds


@njit(cache=True)
def _before(a: int, b: int, loss: Floats, costs: Ints) -> bool:
    for budget in range(len(costs)):
        if costs[budget, a] != costs[budget, b]:
            return costs[budget, a] < costs[budget, b]
    return loss[a] < loss[b] if loss[a] != loss[b] else a < b


@njit(cache=True)
def _sort(order: Ints, start: int, stop: int, loss: Floats, costs: Ints) -> None:
    """Heap sort of order[start:stop] by (costs, loss, position): numba's own sorts take seconds to compile."""
    size = stop - start
    for step in range(size // 2 + size):
        if step < size // 2:
            root, end = size // 2 - 1 - step, size
        else:
            root, end = 0, size // 2 + size - 1 - step
            order[start], order[start + end] = order[start + end], order[start]
        while 2 * root + 1 < end:
            child = 2 * root + 1
            if child + 1 < end and _before(order[start + child], order[start + child + 1], loss, costs):
                child += 1
            if not _before(order[start + root], order[start + child], loss, costs):
                break
            order[start + root], order[start + child] = order[start + child], order[start + root]
            root = child


@njit(cache=True)
def _one(order: Ints, start: int, stop: int, loss: Floats, kept: Ints, filled: int) -> int:
    best = np.inf
    for place in range(start, stop):
        option = order[place]
        if loss[option] < best:
            best = loss[option]
            kept[filled] = option
            filled += 1
    return filled


@njit(cache=True)
def _two(order: Ints, start: int, stop: int, loss: Floats, costs: Ints, kept: Ints, filled: int) -> int:
    # steps of the staircase: second cost rising, loss strictly falling
    step_cost = np.empty(stop - start, np.int64)
    step_loss = np.empty(stop - start, np.float64)
    steps = 0
    for place in range(start, stop):
        option = order[place]
        cost, value = costs[1, option], loss[option]
        at = _steps_up_to(step_cost, steps, cost)
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
def _steps_up_to(step_cost: Ints, steps: int, cost: int) -> int:
    low, high = 0, steps
    while low < high:
        middle = (low + high) // 2
        if step_cost[middle] <= cost:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True)
def _many(order: Ints, start: int, stop: int, loss: Floats, costs: Ints, kept: Ints, filled: int) -> int:
    first = filled
    for place in range(start, stop):
        option = order[place]
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
