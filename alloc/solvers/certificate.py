"""The one way a solver answers: options chosen and a lower bound become a Solution, re-priced from the tables."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alloc.budgets import within_pattern
from alloc.pricing import plan_costs, plan_loss
from alloc.problem import Problem
from alloc.solution import FEASIBLE, OPTIMAL, Solution, relative_gap
from alloc.solvers.single import better_uniform

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def certify(
    problem: Problem,
    chosen: Ints,
    *,
    lower_bound: float,
    prices: Floats,
    tolerance: float,
    solver: str,
    started: float,
    uniform_floor: bool = False,
) -> Solution:
    """`chosen` (groups,) one option of each group, within every limit; `prices` (budgets,) nats per integer unit;
    `started`: time.perf_counter() before the solve; `uniform_floor`: where the plan is not proven best, a uniform plan
    within the budgets that loses less takes its place."""
    if uniform_floor:
        loss = float(problem.loss[chosen].sum())
        proven = relative_gap(loss, min(lower_bound, loss)) <= tolerance
        if not proven and (better := better_uniform(problem, loss)) is not None:
            chosen = better
    runtime = time.perf_counter() - started
    assert (problem.total(chosen) <= problem.limits).all(), "a solver must return a plan within its budgets"
    layers = problem.decode(chosen)
    scope = problem.scope
    within = [pattern for name in scope.limits if (pattern := within_pattern(name)) is not None]
    costs = plan_costs(scope.tables, layers, batch=scope.batch, whole_model=scope.whole_model, within=within)
    over = [name for name, limit in scope.limits.items() if costs[name] > limit]
    assert not over, f"{over} re-priced over the limit"
    objective = plan_loss(scope.tables, layers)
    # sums of floats in another order differ in the last digits
    bound = min(lower_bound, objective)
    gap = relative_gap(objective, bound)
    return Solution(
        objective=objective,
        lower_bound=bound,
        gap=gap,
        status=OPTIMAL if gap <= tolerance else FEASIBLE,
        costs={name: number(name, value) for name, value in costs.items()},
        budgets={name: number(name, value) for name, value in scope.limits.items()},
        tolerance=tolerance,
        prices={
            unit.name: float(price) * 10.0**unit.decimals for unit, price in zip(problem.units, prices, strict=True)
        },
        layers=layers,
        solver=solver,
        runtime_s=runtime,
    )


def number(name: str, value: Fraction) -> float:
    """Bytes as an int; other costs as the nearest float."""
    return int(value) if name.startswith("memory_bytes") else float(value)


class OutOfReachError(ValueError):
    """No plan within all budgets at once was found."""


def out_of_reach(problem: Problem) -> OutOfReachError:
    """The error of a solver that found no plan within all budgets at once, though each alone can be met."""
    scope = problem.scope
    wanted = " and ".join(unit.describe(scope.limits[unit.name], scope.params, scope.batch) for unit in problem.units)
    starts = problem.offsets[:-1]
    ranges = []
    for at, unit in enumerate(problem.units):
        smallest = unit.natural(int(np.minimum.reduceat(problem.costs[at], starts).sum()))
        ranges.append(unit.describe(smallest, scope.params, scope.batch))
    from alloc.solvers.reach import smallest_joint  # it asks a solver, which is certified here

    joint = "".join(f"; {phrase}" for phrase in smallest_joint(problem))
    return OutOfReachError(
        f"no plan meets {wanted} together; smallest feasible of each alone: {', '.join(ranges)}{joint}"
    )
