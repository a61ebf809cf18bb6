r"""The Lagrangian dual of the multiple-choice knapsack: its best prices are the bound of the linear relaxation.

    D(p) = sum_g min_o (loss[o] + sum_b p_b cost[b, o]) - sum_b p_b limit_b,     p >= 0

One budget: D is the lower envelope of lines, one a plan. The plans a (within the limit) and b (over it) that are best
at two prices cross at p = (loss_a - loss_b) / (cost_b - cost_a); pricing at the crossing finds a plan below it or
proves that p is the peak (Dinkelbach's step; finite, 5 to 20 passes of O(options)).
More budgets: cutting planes (Kelley, 1960, doi:10.1137/0108053): each priced plan bounds D from above by a plane; a
small linear program finds the peak of the planes so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import linprog

from alloc.problem import Problem
from alloc.solvers.certificate import out_of_reach

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dual:
    """`bound`: D(prices), a lower bound of every plan; `plans` (found, groups): those priced best on the way, the last
    one best at `prices`; for one budget only the one of them within the limit."""

    prices: Floats  # (budgets,) nats per integer unit
    bound: float
    plans: tuple[Ints, ...]


@njit(cache=True)
def cheapest(offsets: Ints, loss: Floats, costs: Ints, prices: Floats, weight: float) -> Ints:
    """(groups,) the option of least weight * loss + prices . costs; of equal ones the first, which costs least."""
    chosen = np.empty(len(offsets) - 1, np.int64)
    for group in range(len(offsets) - 1):
        best = np.inf
        for option in range(offsets[group], offsets[group + 1]):
            value = weight * loss[option]
            for budget in range(len(prices)):
                value += prices[budget] * costs[budget, option]
            if value < best:
                best = value
                chosen[group] = option
    return chosen


def peak(problem: Problem) -> Dual:
    """The best prices and their bound. Raises ValueError where the relaxation itself meets no combination of limits."""
    return _one_budget(problem) if len(problem.limits) == 1 else _cutting_planes(problem)


def dual_value(problem: Problem, prices: Floats, chosen: Ints) -> float:
    """D(prices) for the plan `chosen` that is cheapest at `prices`."""
    slack = problem.total(chosen) - problem.limits
    return float(problem.loss[chosen].sum() + (prices * slack).sum())


def _one_budget(problem: Problem) -> Dual:
    arrays = (problem.offsets, problem.loss, problem.costs)
    limit = int(problem.limits[0])
    over = cheapest(*arrays, np.zeros(1), 1.0)
    if int(problem.total(over)[0]) <= limit:
        return Dual(prices=np.zeros(1), bound=float(problem.loss[over].sum()), plans=(over,))
    within = cheapest(*arrays, np.ones(1), 0.0)
    while True:
        rise = float(problem.loss[within].sum() - problem.loss[over].sum())
        saved = int(problem.total(over)[0] - problem.total(within)[0])
        prices = np.array([max(rise, 0.0) / saved])
        chosen = cheapest(*arrays, prices, 1.0)
        total = int(problem.total(chosen)[0])
        line = float(problem.loss[within].sum()) + prices[0] * int(problem.total(within)[0])
        value = float(problem.loss[chosen].sum()) + prices[0] * total
        if value >= line - 1e-13 * abs(line) or total in (int(problem.total(over)[0]), int(problem.total(within)[0])):
            return Dual(prices=prices, bound=dual_value(problem, prices, chosen), plans=(within,))
        if total <= limit:
            within = chosen
        else:
            over = chosen


# Kelley's planes close the last digits slowly; the exact solver needs a bound this near the peak, relative to it
PEAK_TOLERANCE = 1e-9
MOST_PLANES = 200


def _cutting_planes(problem: Problem) -> Dual:
    """Prices are scaled by the limits, so that the linear programs see numbers of one size."""
    arrays = (problem.offsets, problem.loss, problem.costs)
    starts = problem.offsets[:-1]
    scale = np.maximum(np.abs(problem.limits), 1).astype(float)
    best = cheapest(*arrays, np.zeros(len(scale)), 1.0)
    worst = float(np.maximum.reduceat(problem.loss, starts).sum())
    # prices start at most where a whole budget is worth every loss; the box grows while the peak is on its edge
    span = max(worst - float(problem.loss[best].sum()), 1e-6 * abs(worst)) or 1.0
    plans = [best]
    planes = [_plane(problem, best, scale)]
    box, peak_bound, peak_at, peak_plan = span, planes[0][0], np.zeros(len(scale)), best
    before = -np.inf
    for _ in range(MOST_PLANES):
        at, ceiling = _top(planes, box)
        chosen = cheapest(*arrays, at / scale, 1.0)
        value = dual_value(problem, at / scale, chosen)
        if value > worst + 1e-9 * abs(worst):
            raise out_of_reach(problem)
        if value > peak_bound:
            peak_bound, peak_at, peak_plan = value, at, chosen
        plans.append(chosen)
        planes.append(_plane(problem, chosen, scale))
        if ceiling - peak_bound <= PEAK_TOLERANCE * abs(peak_bound):
            if at.max() < box * (1 - 1e-9) or ceiling - before <= PEAK_TOLERANCE * abs(ceiling):
                break
            before, box = ceiling, box * 100.0
    plans.append(peak_plan)
    return Dual(prices=peak_at / scale, bound=peak_bound, plans=tuple(plans))


def _plane(problem: Problem, chosen: Ints, scale: Floats) -> tuple[float, Floats]:
    """(loss, relative overruns): D(p) <= loss + p . overruns for every p."""
    return float(problem.loss[chosen].sum()), (problem.total(chosen) - problem.limits) / scale


def _top(planes: list[tuple[float, Floats]], box: float) -> tuple[Floats, float]:
    """The peak of the planes over 0 <= price <= box, and its height."""
    count = len(planes[0][1])
    # in units of the box: variables (height, prices)
    slopes = np.array([np.concatenate([[1.0], -overrun]) for _, overrun in planes])
    heights = np.array([loss for loss, _ in planes]) / box
    result = linprog(
        np.concatenate([[-1.0], np.zeros(count)]),
        A_ub=slopes,
        b_ub=heights,
        bounds=[(None, None), *[(0.0, 1.0)] * count],
        method="highs-ds",
    )
    assert result.status == 0, result.message
    return np.maximum(result.x[1:], 0.0) * box, float(result.x[0]) * box
