r"""From a plan near the limits to one within them: cheapest repairs first, then the slack is spent.

A repair moves one group to an option that lowers the overrun sum_b max(0, total_b - limit_b) / limit_b, at the least
rise of the loss per overrun saved; a spending move lowers the loss and fits. O(options) per repair, and
O(options log options) per sweep."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alloc.problem import Problem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Sweeps seldom find anything after the third; the bound says what is left
MOST_SWEEPS = 8


def fit(problem: Problem, chosen: Ints) -> Ints | None:
    """A plan within every limit, from `chosen` (groups,) by repairs and spending; None where the repairs fail."""
    plan = np.array(chosen, np.int64)
    total = problem.total(plan)
    group_of = np.repeat(np.arange(problem.groups), np.diff(problem.offsets))
    if not _repair(group_of, problem.loss, problem.costs, problem.limits, plan, total):
        return None
    scale = 1.0 / np.maximum(np.abs(problem.limits), 1)
    for _ in range(MOST_SWEEPS):
        gain = problem.loss[plan][group_of] - problem.loss
        candidates = np.flatnonzero(gain > 0)
        spent = np.maximum(problem.costs[:, candidates] - problem.costs[:, plan[group_of[candidates]]], 0)
        fits = (spent <= (problem.limits - total)[:, None]).all(axis=0)
        candidates, spent = candidates[fits], spent[:, fits]
        order = np.argsort(-gain[candidates] / ((spent * scale[:, None]).sum(axis=0) + 1e-30), kind="stable")
        if not _spend(candidates[order], group_of, problem.loss, problem.costs, problem.limits, plan, total):
            break
    return plan


@njit(cache=True)
def _overrun(total: Ints, limits: Ints) -> float:
    overrun = 0.0
    for budget in range(len(limits)):
        if total[budget] > limits[budget]:
            overrun += (total[budget] - limits[budget]) / max(1.0, abs(float(limits[budget])))
    return overrun


@njit(cache=True)
def _repair(group_of: Ints, loss: Floats, costs: Ints, limits: Ints, plan: Ints, total: Ints) -> bool:
    """Changes `plan` and `total` in place; False where no move helps any more."""
    moved = np.empty_like(total)
    while True:
        overrun = _overrun(total, limits)
        if overrun == 0.0:
            return True
        best, best_price = -1, np.inf
        for option in range(len(loss)):
            current = plan[group_of[option]]
            for budget in range(len(limits)):
                moved[budget] = total[budget] + costs[budget, option] - costs[budget, current]
            saved = overrun - _overrun(moved, limits)
            if saved > 0.0:
                price = (loss[option] - loss[current]) / saved
                if price < best_price:
                    best, best_price = option, price
        if best < 0:
            return False
        group = group_of[best]
        for budget in range(len(limits)):
            total[budget] += costs[budget, best] - costs[budget, plan[group]]
        plan[group] = best


@njit(cache=True)
def _spend(order: Ints, group_of: Ints, loss: Floats, costs: Ints, limits: Ints, plan: Ints, total: Ints) -> int:
    """Takes every improving option of `order` that still fits; the number taken."""
    taken = 0
    for option in order:
        group = group_of[option]
        current = plan[group]
        if loss[option] >= loss[current]:
            continue
        fits = True
        for budget in range(len(limits)):
            if total[budget] + costs[budget, option] - costs[budget, current] > limits[budget]:
                fits = False
                break
        if fits:
            for budget in range(len(limits)):
                total[budget] += costs[budget, option] - costs[budget, current]
            plan[group] = option
            taken += 1
    return taken
