r"""One budget and many ties: the group relaxation (Gomory, 1965, doi:10.1073/pnas.53.2.260), solved as a shortest path.

Where layers repeat, many groups are indifferent at the best price p between two options that differ by the same cost s.
Such a tie is free (r = 0, see core.py), so that what the other groups spend counts only modulo s:

    loss = D + sum r + p . slack  >=  D + min over moves of  [ sum r + p ((slack of the cheap plan - cost) mod s) ]

The minimum is a shortest path over the s / gcd remainders, one stage a group. It is a lower bound for every number of
ties, and where the number it asks for is there, the plan that reaches it is optimal. O(stages x remainders)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.solvers.dual import Dual
from alloc.solvers.exchange import exchanged

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# below this many ties the core itself is small
FEWEST_TIES = 32
# r of a tie, against eps: only rounding is behind it
FREE = 1e-9
# remainders x stages: a byte each
MOST_CELLS = 200_000_000
# remainders whose plan is tried
MOST_TRACED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """`bound`: no plan loses less; `plan` (groups,) reaches it, None where that takes more ties than there are."""

    bound: float
    plan: Ints | None


def solve_ties(problem: Problem, dual: Dual, eps: float) -> Ties | None:
    """The best plan within `eps` of the dual bound; None where there are few ties, or too many remainders.

    Where every plan loses more, `bound` is dual.bound + eps and `plan` None."""
    if len(problem.limits) > 1 or not dual.prices[0] > 0 or not eps > 0:
        return None
    cost, price, counts = problem.costs[0], float(dual.prices[0]), np.diff(problem.offsets)
    priced = problem.loss + price * cost
    r = priced - np.minimum.reduceat(priced, problem.offsets[:-1]).repeat(counts)
    near = np.flatnonzero(r <= eps)
    group_of = np.searchsorted(problem.offsets, near, side="right") - 1
    free = r[near] <= FREE * eps
    # the cheapest free option of each group: options are sorted by cost
    cheap = near[free][np.unique(group_of[free], return_index=True)[1]]
    over = cost[near] - cost[cheap[group_of]]
    steps, times = np.unique(over[free & (over > 0)], return_counts=True)
    if not len(times) or times.max() < FEWEST_TIES:
        return None
    step = int(steps[np.argmax(times)])
    tied = free & (over == step)
    rest = (over != 0) & ~tied
    moves = np.mod(over[rest], step)
    kept = exchanged(moves[None, :], r[near[rest]], r[near[rest]], group_of[rest], eps)
    moves, options, movers = moves[kept], near[rest][kept], group_of[rest][kept]
    slack = int(problem.limits[0] - cost[cheap].sum())
    unit = math.gcd(step, *(int(move) for move in np.unique(moves)))
    groups, starts = np.unique(movers, return_index=True)
    if step // unit * max(len(groups), 1) > MOST_CELLS:
        return None
    stages = np.split(np.arange(len(moves)), starts[1:]) if len(groups) else []
    least, taken = _shortest(moves // unit, r[options], stages, step // unit)
    # what is left of the slack after as many ties as fit it
    values = least + price * np.mod(slack - unit * np.arange(step // unit), step)
    order = np.argsort(values, kind="stable")[:MOST_TRACED]
    if not values[order[0]] <= eps:
        return Ties(bound=dual.bound + eps, plan=None)
    bound = dual.bound + float(values[order[0]])
    for at in order[values[order] <= eps]:
        plan = cheap.copy()
        left = int(at)
        for stage, choice in zip(reversed(stages), reversed(taken), strict=True):
            if choice[left]:
                move = stage[choice[left] - 1]
                plan[movers[move]] = options[move]
                left = (left - int(moves[move] // unit)) % (step // unit)
        ties = near[tied][plan[group_of[tied]] == cheap[group_of[tied]]]
        wanted = int(problem.limits[0] - cost[plan].sum()) // step
        if 0 <= wanted <= len(ties):
            plan[np.searchsorted(problem.offsets, ties[:wanted], side="right") - 1] = ties[:wanted]
            return Ties(bound=bound, plan=plan)
    return Ties(bound=bound, plan=None)


def _shortest(moves: Ints, r: Floats, stages: list[Ints], count: int) -> tuple[Floats, list[NDArray[np.int8]]]:
    """(count,) least sum of r that reaches each remainder, and for each stage the move taken, 0 for none."""
    least = np.full(count, np.inf)
    least[0] = 0.0
    taken = []
    for stage in stages:
        best, choice = least.copy(), np.zeros(count, np.int8)
        for at, move in enumerate(stage):
            arrived = np.roll(least, int(moves[move])) + r[move]
            better = arrived < best
            best[better] = arrived[better]
            choice[better] = at + 1
        least = best
        taken.append(choice)
    return least, taken
