r"""The Lagrangian dual under several budgets, by columns (Dantzig and Wolfe, 1960, doi:10.1287/opre.8.1.101).

    minimise sum_j lam_j loss_j + M sum_b o_b  s.t.  sum_j lam_j over_jb + s_b - o_b = 0,  sum_j lam_j = 1,  all >= 0

over all plans j, with over = (cost - limit) / scale. The duals of a basis of budgets + 1 columns are prices p <= M; the
plan cheapest at p (one pass over the options) is the column of least reduced cost, and D(p) = its loss + p . over is a
lower bound. Once it meets the master's objective, p is the peak. A basis is (budgets + 1)^2 numbers, so a step costs a
pass, and there are some tens."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Costs = Ints | Floats
ZERO = 1e-12
TOLERANCE = 1e-12


@njit(cache=True)
def cheapest(offsets: Ints, loss: Floats, costs: Costs, prices: Floats, weight: float) -> Ints:
    """(groups,) the option of least weight * loss + prices . costs; of equal ones the first, which costs least.

    `costs` (budgets, options); floats are faster than integers."""
    priced = np.empty(len(loss))
    for option in range(len(loss)):
        priced[option] = weight * loss[option]
    for budget in range(len(prices)):
        price = prices[budget]
        for option in range(len(loss)):
            priced[option] += price * costs[budget, option]
    chosen = np.empty(len(offsets) - 1, np.int64)
    for group in range(len(offsets) - 1):
        at = offsets[group]
        best = priced[at]
        for option in range(at + 1, offsets[group + 1]):
            if priced[option] < best:
                best = priced[option]
                at = option
        chosen[group] = at
    return chosen


@njit(cache=True)
def column_generation(
    offsets: Ints, loss: Floats, costs: Floats, limits: Floats, scale: Floats, box: float, most: int
) -> tuple[Floats, float, Ints, bool]:
    """Prices (budgets,), D at them, the plans (plans, groups) of the last basis and the one cheapest at
    the prices, and whether the box M holds a price.

    `most` limits the steps; what is returned then is still a bound."""
    budgets, size, groups = len(limits), len(limits) + 1, len(offsets) - 1
    over, prices, y, column, step = np.zeros(budgets), np.zeros(budgets), np.zeros(size), np.zeros(size), np.zeros(size)
    plan = cheapest(offsets, loss, costs, prices, 1.0)
    value = _column(plan, loss, costs, limits, scale, over)
    # the basis: row b < budgets a slack (kind 1) or an overrun (kind 2), the last row a plan (kind 0)
    kind = np.ones(size, np.int64)
    kind[budgets] = 0
    plans = np.empty((size + 1, groups), np.int64)
    inverse, held, price_of = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    inverse[budgets, budgets], held[budgets], price_of[budgets] = 1.0, 1.0, value
    for g in range(groups):
        plans[budgets, g] = plan[g]
    for b in range(budgets):
        sign = 1.0
        if over[b] > 0:
            sign, kind[b], price_of[b] = -1.0, 2, box
        inverse[b, b] = sign
        inverse[b, budgets] = -sign * over[b]
        held[b] = -sign * over[b]
    best, best_at, best_plan = -np.inf, np.zeros(budgets), plan
    for _ in range(most):
        for j in range(size):
            y[j] = 0.0
            for i in range(size):
                y[j] += price_of[i] * inverse[i, j]
        # prices are -y: outside of [0, M] a slack or an overrun comes in
        enters, worst, at = 0, ZERO * box, 0
        for b in range(budgets):
            column[b] = 0.0
            if y[b] > worst:
                worst, enters, at = y[b], 1, b
            if -y[b] - box > worst:
                worst, enters, at = -y[b] - box, 2, b
        column[budgets] = 0.0
        cost = 0.0
        if enters == 1:
            column[at] = 1.0
        elif enters == 2:
            column[at] = -1.0
            cost = box
        else:
            for b in range(budgets):
                prices[b] = (max(-y[b], 0.0) + 0.0) / scale[b]  # no -0
            plan = cheapest(offsets, loss, costs, prices, 1.0)
            cost = _column(plan, loss, costs, limits, scale, over)
            value = cost
            for b in range(budgets):
                value += prices[b] * scale[b] * over[b]
                column[b] = over[b]
            column[budgets] = 1.0
            if value > best:
                best, best_at, best_plan = value, prices.copy(), plan
            # y of the last row is the master's objective
            if y[budgets] - best <= TOLERANCE * abs(best) or value >= y[budgets]:
                break
        leaves, shortest = -1, np.inf
        for i in range(size):
            step[i] = 0.0
            for j in range(size):
                step[i] += inverse[i, j] * column[j]
            if step[i] > ZERO and held[i] / step[i] < shortest:
                shortest, leaves = held[i] / step[i], i
        if leaves < 0:
            break
        held[leaves] = shortest
        for j in range(size):
            inverse[leaves, j] /= step[leaves]
        for i in range(size):
            if i != leaves:
                held[i] = max(held[i] - step[i] * shortest, 0.0)
                for j in range(size):
                    inverse[i, j] -= step[i] * inverse[leaves, j]
        kind[leaves], price_of[leaves] = enters, cost
        if enters == 0:
            for g in range(groups):
                plans[leaves, g] = plan[g]
    boxed, count = False, 0
    for i in range(size):
        boxed |= kind[i] == 2 and held[i] > ZERO
        if kind[i] == 0:
            for g in range(groups):
                plans[count, g] = plans[i, g]
            count += 1
    for g in range(groups):
        plans[count, g] = best_plan[g]
    return best_at, best, plans[: count + 1], boxed


@njit(cache=True)
def _column(plan: Ints, loss: Floats, costs: Floats, limits: Floats, scale: Floats, over: Floats) -> float:
    """Loss of a plan; `over` is set to its scaled overruns."""
    value = 0.0
    for option in plan:
        value += loss[option]
    for b in range(len(limits)):
        total = -limits[b]
        for option in plan:
            total += costs[b, option]
        over[b] = total / scale[b]
    return value
