r"""The lower convex hull of every group, and all one-budget relaxations at once (Sinha and Zoltners, 1979,
doi:10.1287/opre.27.3.503).

Each group's hull is a chain of steps of falling price p = loss saved / cost. Sorted by price over all groups, the steps
make the vertices of the Lagrangian hull: after the first k of them the plan is optimal at its own cost, and between two
vertices the relaxation (one step taken in part) is the line between them, the lower bound. O(options log options)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alloc.problem import Problem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hull:
    """Vertex k is `first` with the options of the first k steps taken in turn; vertices fall in loss, rise in cost."""

    first: Ints  # (groups,) the cheapest option of each group
    group_of: Ints  # (steps,)
    options: Ints  # (steps,) what the group takes at this step
    prices: Floats  # (steps,) nats per integer unit, falling
    cost: Ints  # (steps + 1,) of the vertices
    loss: Floats  # (steps + 1,) of the vertices, nats/token

    def bound(self, limits: Ints) -> tuple[Floats, Floats]:
        """(lower bounds, prices) of the problem at each of `limits`, none of them below `cost[0]`."""
        at = self.vertex(limits)
        prices = np.append(self.prices, 0.0)[at]
        return self.loss[at] - prices * (limits - self.cost[at]), prices

    def vertex(self, limits: Ints) -> Ints:
        """The last vertex within each of `limits`."""
        return np.searchsorted(self.cost, limits, side="right") - 1


def lagrangian_hull(problem: Problem) -> Hull:
    """The hull of a problem of one budget, whatever its limit. Raises ValueError where there are more."""
    if len(problem.limits) != 1:
        names = ", ".join(unit.name for unit in problem.units)
        raise ValueError(f"a hull has one budget, not {len(problem.limits)}: {names}")
    cost, loss = problem.costs[0], problem.loss
    corners = _corners(problem.offsets, loss, np.ascontiguousarray(cost))
    group = np.searchsorted(problem.offsets, corners, side="right") - 1
    step = np.flatnonzero(group[1:] == group[:-1]) + 1
    saved, paid = loss[corners[step - 1]] - loss[corners[step]], cost[corners[step]] - cost[corners[step - 1]]
    order = np.argsort(-saved / paid, kind="stable")
    first = problem.offsets[:-1].copy()
    return Hull(
        first=first,
        group_of=group[step][order],
        options=corners[step][order],
        prices=(saved / paid)[order],
        cost=np.concatenate([[cost[first].sum()], paid[order]]).cumsum(),
        loss=np.concatenate([[loss[first].sum()], -saved[order]]).cumsum(),
    )


@njit(cache=True)
def _corners(offsets: Ints, loss: Floats, cost: Ints) -> Ints:
    """Options on the lower convex hull of their group; options are sorted by cost, with falling loss."""
    kept = np.empty(len(loss), np.int64)
    filled = 0
    for group in range(len(offsets) - 1):
        start = filled
        for option in range(offsets[group], offsets[group + 1]):
            while filled - start >= 2:
                a, b = kept[filled - 2], kept[filled - 1]
                # b is a corner where the price falls at it
                if (loss[a] - loss[b]) / (cost[b] - cost[a]) > (loss[b] - loss[option]) / (cost[option] - cost[b]):
                    break
                filled -= 1
            kept[filled] = option
            filled += 1
    return kept[:filled].copy()
