"""Reverse water-filling: its optimality conditions, and an independent convex program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from alloc_instances import all_plans, random_instance

from alloc.problem import Budgets, build_problem
from alloc.rate_distortion import GAUSSIAN, Exponential
from alloc.solvers import Exact, WaterFilling
from alloc.solvers.convex import continuous_rates
from alloc.solvers.water_filling import ideal_loss, water_fill
from alloc.tables import read_tables


def test_optimality_conditions() -> None:
    """Feasible, budget spent, one slope a 4^(-b) / n above the floor and no steeper one at it (the KKT conditions)."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(1, 9))
        a = rng.lognormal(sigma=3, size=count) * (rng.random(count) > 0.1)
        n = rng.integers(1, 100, count).astype(float)
        floor = rng.uniform(0, 3, count) if rng.random() < 0.5 else np.zeros(count)
        bits = float((n * floor).sum() + rng.exponential(3) * n.sum())
        rates = water_fill(a, n, bits, floor)
        assert (rates >= floor).all()
        if not a.any():
            continue
        assert (n * rates).sum() == pytest.approx(bits, rel=1e-9)
        slope = a * 4.0**-rates / n
        free = rates > floor + 1e-9
        level = slope[free].max() if free.any() else np.inf
        assert slope[free] == pytest.approx(level, rel=1e-6)
        assert (slope[~free] <= level * (1 + 1e-6)).all()


@pytest.mark.parametrize("floor", [0.0, 2.0])
@pytest.mark.parametrize("model", [GAUSSIAN, Exponential(factor=1.2, slope=1.9)], ids=["gaussian", "fitted"])
def test_agrees_with_the_convex_program(floor: float, model: Exponential) -> None:
    rng = np.random.default_rng(1)
    a, n, floors = rng.lognormal(size=12), rng.integers(1, 9, 12).astype(float), np.full(12, floor)
    rates = water_fill(a, n, 3.0 * n.sum(), floors, model)
    program = continuous_rates(model, a, floors, n[None], np.array([3.0 * n.sum()]))
    assert rates == pytest.approx(program, abs=1e-5)
    assert ideal_loss(a, rates, model) == pytest.approx(ideal_loss(a, program, model), rel=1e-8)


def test_floors_above_the_budget_are_refused() -> None:
    with pytest.raises(ValueError, match="below the floors"):
        water_fill(np.ones(2), np.ones(2), 3.0, np.full(2, 2.0))


def test_bound_holds_on_palettes_that_break_the_curve(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        instance = random_instance(rng, groups=4, widest=1, quantizers=4, latency=False)
        plans = all_plans(instance.option_table(latency=False))
        limit = int(rng.integers(plans[:, 1].min(), plans[:, 1].max() + 1))
        problem = build_problem(read_tables(instance.write(tmp_path)), budgets=Budgets(memory_bytes=limit))
        solution = WaterFilling(model=rng.choice([GAUSSIAN, Exponential(slope=1.7)])).solve(problem)
        optimum = plans[plans[:, 1] <= limit, 0].min()
        assert solution.lower_bound <= optimum * (1 + 1e-12) + 1e-12
        assert solution.objective >= Exact().solve(problem).objective * (1 - 1e-12)
