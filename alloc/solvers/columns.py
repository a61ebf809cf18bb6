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
    priced = weight * loss
    for budget in range(len(prices)):
        price = prices[budget]
        if price != 0.0:
            priced += price * costs[budget]
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
    """Prices (budgets,) per scaled unit, D at them, the plans (plans, groups) of the last basis and the one cheapest at
    the prices, and whether the box M holds a price.

    `most` limits the steps; what is returned then is still a bound."""
    budgets, size = len(limits), len(limits) + 1
    over = np.empty(budgets)
    plan = cheapest(offsets, loss, costs, np.zeros(budgets), 1.0)
    value = _column(plan, loss, costs, limits, scale, over)
    # the basis: row b < budgets a slack (kind 1) or an overrun (kind 2), the last row a plan (kind 0)
    kind = np.ones(size, np.int64)
    kind[budgets] = 0
    plans = np.empty((size, len(plan)), np.int64)
    plans[budgets] = plan
    inverse, held, price_of = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    inverse[budgets, budgets], held[budgets], price_of[budgets] = 1.0, 1.0, value
    for b in range(budgets):
        sign = 1.0
        if over[b] > 0:
            sign, kind[b], price_of[b] = -1.0, 2, box
        inverse[b, b] = sign
        inverse[b, budgets] = -sign * over[b]
        held[b] = -sign * over[b]
    best, best_at, best_plan = -np.inf, np.zeros(budgets), plan
    y, column, step = np.empty(size), np.empty(size), np.empty(size)
    master = np.inf
    for _ in range(most):
        for j in range(size):
            y[j] = 0.0
            for i in range(size):
                y[j] += price_of[i] * inverse[i, j]
        master = y[budgets]
        # prices are -y: outside of [0, M] a slack or an overrun comes in
        enters, worst = 0, ZERO * box
        column[:] = 0.0
        for b in range(budgets):
            if y[b] > worst:
                worst, enters, at = y[b], 1, b
            if -y[b] - box > worst:
                worst, enters, at = -y[b] - box, 2, b
        cost = 0.0
        if enters:
            column[at] = 1.0 if enters == 1 else -1.0
            cost = 0.0 if enters == 1 else box
        else:
            prices = np.maximum(-y[:budgets], 0.0)
            plan = cheapest(offsets, loss, costs, prices / scale, 1.0)
            cost = _column(plan, loss, costs, limits, scale, over)
            value = cost + (prices * over).sum()
            if value > best:
                best, best_at, best_plan = value, prices, plan
            if master - best <= TOLERANCE * abs(best) or value >= master:
                break
            column[:budgets], column[budgets] = over, 1.0
        leaves, shortest = -1, np.inf
        for i in range(size):
            step[i] = 0.0
            for j in range(size):
                step[i] += inverse[i, j] * column[j]
            if step[i] > ZERO and held[i] / step[i] < shortest:
                shortest, leaves = held[i] / step[i], i
        if leaves < 0:
            break
        inverse[leaves] /= step[leaves]
        held[leaves] = shortest
        for i in range(size):
            if i != leaves:
                inverse[i] -= step[i] * inverse[leaves]
                held[i] = max(held[i] - step[i] * shortest, 0.0)
        kind[leaves], price_of[leaves] = enters, cost
        if enters == 0:
            plans[leaves] = plan
    boxed = False
    for i in range(size):
        boxed |= kind[i] == 2 and held[i] > ZERO
    kept = np.empty((size + 1, len(plan)), np.int64)
    count = 0
    for i in range(size):
        if kind[i] == 0:
            kept[count] = plans[i]
            count += 1
    kept[count] = best_plan
    return best_at, best, kept[: count + 1].copy(), boxed


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
