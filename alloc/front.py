r"""The Pareto front: the least loss at every budget of one cost, from one table in one call.

The Lagrangian hull (solvers/hull.py) is every budget's lower bound at once, and its vertices are plans; a plan for a
budget between two vertices is the lower one with the slack spent (solvers/rounding.py), or the proven optimum where
that is asked for. Loss never rises along a front: what is good for a budget is good for a larger one.

A knee (after Satopaa et al., 2011, doi:10.1109/ICDCSW.2011.20) is a local maximum of how far log loss lies below its
chord, both axes scaled to [0, 1], with a prominence above one point's share of the axis, 1 / (points - 1). The log,
because an ideal code loses a factor of 4 a bit everywhere: a knee is where a budget stops buying what it bought before.
It is looked for on the lower bound, which no rounding disturbs.

The information bound is the loss of an ideal code of the same bytes, D = 4^-b, water-filled over the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alloc.budgets import fp16_bytes
from alloc.choice import Choice
from alloc.problem import Problem
from alloc.solvers.exact import Exact
from alloc.solvers.hull import Hull, lagrangian_hull
from alloc.solvers.rounding import fit
from alloc.solvers.water_filling import ideal_loss, water_fill

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Points in the order of their limits, loss never rising; all arrays over the points, of `problem`'s one budget."""

    problem: Problem
    hull: Hull
    limits: Ints  # in the problem's integer units, net of what is spent before the first option
    plans: Ints  # (points, groups) options
    objective: Floats  # nats/token, of the plan
    lower_bound: Floats  # nats/token, of every plan within the limit
    prices: Floats  # nats per integer unit
    exact: Flags  # proven optimal
    knee: Flags

    def layers(self, point: int) -> dict[str, Choice]:
        """The plan of a point: layer name -> choice."""
        return self.problem.decode(self.plans[point])

    def at(self, point: int) -> Problem:
        """The problem with the limit of a point, for any solver."""
        return with_limit(self.problem, int(self.limits[point]))

    def frame(self) -> pd.DataFrame:
        """A row a point. `budget` and the cost that it limits, by its name, in bytes, microseconds or the cost's own
        unit; memory_bytes and bits_per_weight of the plan; price in nats per unit of the budget."""
        problem, unit = self.problem, self.problem.units[0]
        scope = problem.scope
        spent = problem.costs[0][self.plans].sum(axis=1)
        size = option_bytes(problem)[self.plans].sum(axis=1)
        outside = fp16_bytes(scope.tables, ~scope.allocated) if scope.whole_model else 0
        columns: dict[str, object] = {
            "budget": [float(unit.natural(int(limit))) for limit in self.limits],
            unit.name: [float(unit.natural(int(cost))) for cost in spent],
            "memory_bytes": size + outside,
            "bits_per_weight": 8.0 * size / scope.params,
        }
        if unit.name == "latency_us":
            columns["tokens_per_second"] = [scope.batch * 1e6 / float(unit.natural(int(cost))) for cost in spent]
        gap = np.divide(
            self.objective - self.lower_bound,
            np.abs(self.objective),
            out=np.zeros(len(self.limits)),
            where=self.objective != self.lower_bound,
        )
        return pd.DataFrame(
            {
                **columns,
                "objective": self.objective,
                "lower_bound": self.lower_bound,
                "gap": gap,
                "information_bound": information_bound(problem, size),
                "price": self.prices * 10.0**unit.decimals,
                "exact": self.exact,
                "knee": self.knee,
            }
        )


def front(
    problem: Problem,
    *,
    points: int = 200,
    limits: Sequence[int] | None = None,
    exact: int | Sequence[int] = 0,
    solver: Exact | None = None,
) -> Front:
    """The front of the one budget of `problem`, whose own limit plays no part.

    `limits`: integer units of the budget, net of what is fixed; default `points` of them, even from the smallest
    feasible to the largest useful. `exact`: the points to prove (indices), or how many, spread evenly; `solver`
    proves them. Raises ValueError where the problem has several budgets, or a limit is below the smallest feasible."""
    hull = lagrangian_hull(problem)
    if limits is None:
        if points < 2:
            raise ValueError(f"points={points} is not accepted; a front has at least 2")
        spread = np.linspace(0.0, float(hull.cost[-1] - hull.cost[0]), points)
        chosen_limits = hull.cost[0] + np.ceil(spread).astype(np.int64)
    else:
        chosen_limits = np.unique(np.asarray(limits, np.int64))
        _check_limits(problem, hull, chosen_limits)
    proven = _proven_points(exact, len(chosen_limits))
    bounds, prices = hull.bound(chosen_limits)
    plans = np.empty((len(chosen_limits), problem.groups), np.int64)
    objective = np.empty(len(chosen_limits))
    is_exact = np.zeros(len(chosen_limits), dtype=bool)
    plan, done = hull.first.copy(), 0
    search = solver if solver is not None else Exact()
    for at, (limit, vertex) in enumerate(zip(chosen_limits, hull.vertex(chosen_limits), strict=True)):
        plan[hull.group_of[done:vertex]] = hull.options[done:vertex]
        done = vertex
        here = with_limit(problem, int(limit))
        if at in proven:
            plans[at], proof, _ = search.plan(here)
            objective[at] = _loss(problem, plans[at])
            bounds[at] = max(bounds[at], min(proof, objective[at]))
            is_exact[at] = objective[at] - bounds[at] <= search.tolerance * abs(objective[at])
        else:
            found = fit(here, plan)
            assert found is not None, "a vertex of the hull is within its limit"
            plans[at], objective[at] = found, _loss(problem, found)
        if at and objective[at - 1] < objective[at]:
            plans[at], objective[at] = plans[at - 1], objective[at - 1]
    bounds = np.minimum(bounds, objective)
    for array in (chosen_limits, plans, objective, bounds, prices, is_exact):
        array.setflags(write=False)
    return Front(
        problem=problem,
        hull=hull,
        limits=chosen_limits,
        plans=plans,
        objective=objective,
        lower_bound=bounds,
        prices=prices,
        exact=is_exact,
        knee=knees(chosen_limits.astype(float), bounds),
    )


def with_limit(problem: Problem, limit: int) -> Problem:
    """The problem of one budget with another limit, in integer units net of what is fixed."""
    unit = problem.units[0]
    scope = replace(problem.scope, limits={unit.name: unit.natural(limit)})
    return replace(problem, scope=scope, limits=np.array([limit], np.int64))


def knees(budget: Floats, loss: Floats) -> Flags:
    """(points,) where the front has a knee (see the top of the file); `budget` rising, `loss` falling."""
    # half a second of imports that no other part of the solvers needs
    from scipy.signal import find_peaks

    found = np.zeros(len(loss), dtype=bool)
    points = np.flatnonzero(loss > 0)
    if len(points) < 3 or loss[points[0]] == loss[points[-1]]:
        return found
    x, y = budget[points], np.log(loss[points])
    below = 1.0 - (x - x[0]) / (x[-1] - x[0]) - (y - y[-1]) / (y[0] - y[-1])
    peaks, _ = find_peaks(below, prominence=1.0 / (len(points) - 1))
    found[points[peaks]] = True
    return found


def option_bytes(problem: Problem) -> Ints:
    """(options,) bytes of every option, whether memory is a budget or not."""
    storage, code = problem.tables.storage_bytes, problem.code
    counts = np.diff(problem.offsets)
    total = np.zeros(len(problem.loss), np.int64)
    for at in range(problem.blocks.shape[1]):
        layer = np.array([members[at] if at < len(members) else -1 for members in problem.members]).repeat(counts)
        quantizer = code.quantizer(problem.blocks[:, at])
        total += np.where(layer >= 0, storage[layer, quantizer], 0)
    return total


def information_bound(problem: Problem, size: Ints) -> Floats:
    """The loss of ideal codes, D = 4^-b, that spend `size` bytes in all on the problem's layers."""
    layers = np.array([layer for members in problem.members for layer in members])
    a, n = problem.tables.sensitivity[layers], problem.tables.params[layers].astype(float)
    floor = np.zeros(len(layers))
    return np.array([ideal_loss(a, water_fill(a, n, 8.0 * float(bytes_), floor)) for bytes_ in size])


def _proven_points(exact: int | Sequence[int], count: int) -> set[int]:
    if isinstance(exact, int):
        if not 0 <= exact <= count:
            raise ValueError(f"exact={exact} is not accepted; the front has {count} points")
        return {int(at) for at in np.linspace(0, count - 1, exact).round()}
    bad = [at for at in exact if not 0 <= at < count]
    if bad:
        raise ValueError(f"exact names the point {bad[0]}, but the front has the points 0 to {count - 1}")
    return set(exact)


def _check_limits(problem: Problem, hull: Hull, limits: Ints) -> None:
    unit, scope = problem.units[0], problem.scope
    least, *asked = (
        unit.describe(unit.natural(int(units)), scope.params, scope.batch) for units in (hull.cost[0], *limits[:1])
    )
    if not asked:
        raise ValueError(f"a front needs at least one limit, {least} or more")
    if limits[0] < hull.cost[0]:
        raise ValueError(f"the limit {asked[0]} is impossible; smallest feasible: {least}")


def _loss(problem: Problem, plan: Ints) -> float:
    return math.fsum(problem.loss[plan].tolist())
