r"""The Lagrangian dual of the multiple-choice knapsack: its best prices are the bound of the linear relaxation.

    D(p) = sum_g min_o (loss[o] + sum_b p_b cost[b, o]) - sum_b p_b limit_b,     p >= 0

One budget: D is the lower envelope of lines, one a plan. The plans a (within the limit) and b (over it) that are best
at two prices cross at p = (loss_a - loss_b) / (cost_b - cost_a); pricing at the crossing finds a plan below it or
proves that p is the peak (Dinkelbach's step; finite, 5 to 20 passes of O(options)).
More budgets: column generation (columns.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.solvers.certificate import out_of_reach
from alloc.solvers.columns import cheapest, column_generation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Steps per budget: instances of two budgets take 15 to 60 in all; what is found by then is a bound all the same
MOST_STEPS = 500
# The box of the prices grows a hundredfold each time: 10^24 is beyond any exchange of loss for a whole budget
MOST_BOXES = 12

__all__ = ["Dual", "cheapest", "dual_value", "peak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dual:
    """`bound`: D(prices), a lower bound of every plan; `plans` (found, groups): those priced best on the way, the last
    one best at `prices`; for one budget only the one of them within the limit."""

    prices: Floats  # (budgets,) nats per integer unit
    bound: float
    plans: tuple[Ints, ...]


def peak(problem: Problem) -> Dual:
    """The best prices and their bound. Raises ValueError where the relaxation itself meets no combination of limits."""
    return _one_budget(problem) if len(problem.limits) == 1 else _several_budgets(problem)


def dual_value(problem: Problem, prices: Floats, chosen: Ints) -> float:
    """D(prices) for the plan `chosen` that is cheapest at `prices`."""
    slack = problem.total(chosen) - problem.limits
    return float(problem.loss[chosen].sum() + (prices * slack).sum())


def _one_budget(problem: Problem) -> Dual:
    arrays = (problem.offsets, problem.loss, problem.costs.astype(float))
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


def _several_budgets(problem: Problem) -> Dual:
    """Prices are scaled by the limits and held in a box, which grows while the peak is on its edge."""
    loss, costs, limits = problem.loss, problem.costs.astype(float), problem.limits.astype(float)
    scale = np.maximum(np.abs(limits), 1.0)
    starts = problem.offsets[:-1]
    worst = float(np.maximum.reduceat(loss, starts).sum())
    # at first a whole budget is worth at most every loss
    box = max(worst - float(np.minimum.reduceat(loss, starts).sum()), 1e-6 * abs(worst)) or 1.0
    for _ in range(MOST_BOXES):
        prices, value, plans, boxed = column_generation(
            problem.offsets, loss, costs, limits, scale, box, MOST_STEPS * len(limits)
        )
        # a bound above every plan's loss: there is no plan
        if value > worst + 1e-9 * abs(worst):
            raise out_of_reach(problem)
        if not boxed:
            break
        box *= 100.0
    return Dual(prices=prices, bound=dual_value(problem, prices, plans[-1]), plans=tuple(plans))
