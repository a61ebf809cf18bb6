"""Thousands of small random problems against brute force: with ties, fusion groups of 1 to 4, and 1 to 3 budgets."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import reduce
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from alloc_instances import PARTS, partitions

from alloc.fusion import BlockCode
from alloc.latency import LatencyRow, LatencyTable
from alloc.pareto import fronts
from alloc.problem import Budgets, Problem, build_problem
from alloc.solvers import Exact, Lagrangian, ties
from alloc.solvers.dual import cheapest, dual_value, peak
from alloc.solvers.exact import loss_of
from alloc.solvers.hull import lagrangian_hull
from alloc.solvers.ties import solve_ties
from alloc.tables import Tables
from alloc.units import Units

KERNELS = ("cuda-core", "tensor-core")


def outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(columns, n), (columns, m) -> (columns, n m): sums of every pair."""
    return (a[:, :, None] + b[:, None, :]).reshape(len(a), -1)


def bare_problem(rng: np.random.Generator, *, groups: int, budgets: int, copies: bool) -> tuple[Problem, np.ndarray]:
    """A problem of arrays alone, and (1 + budgets, plans) loss and costs of every plan.

    Losses are small integers at times, so that ties occur; with `copies`, groups repeat."""
    made: list[np.ndarray] = []
    for at in range(groups):
        if copies and at and rng.random() < 0.7:
            made.append(made[int(rng.integers(at))])
            continue
        count = int(rng.integers(1, 6))
        loss = rng.integers(0, 9, count).astype(float) if rng.random() < 0.5 else rng.lognormal(size=count)
        made.append(np.vstack([loss, rng.integers(0, 12, (budgets, count))]))
    offsets = np.concatenate([[0], np.cumsum([group.shape[1] for group in made])]).astype(np.int64)
    loss, costs = np.hstack(made)[0], np.hstack(made)[1:].astype(np.int64)
    kept, offsets = fronts(offsets, loss, costs)
    plans = reduce(outer, made)
    picked = plans[1:, int(rng.integers(plans.shape[1]))].astype(np.int64)
    limits = picked if rng.random() < 0.5 else picked + rng.integers(0, 5, budgets)
    problem = Problem(
        scope=None,  # type: ignore[arg-type]
        units=tuple(Units(name=f"cost-{at}", decimals=0, fixed=Fraction(0)) for at in range(budgets)),
        limits=limits,
        members=tuple((at,) for at in range(groups)),
        offsets=offsets,
        loss=loss[kept],
        costs=np.ascontiguousarray(costs[:, kept]),
        blocks=np.zeros((len(kept), 1), np.int64),
        code=BlockCode(quantizers=1, kernels=0),
    )
    return problem, plans


def optimum_of(problem: Problem, plans: np.ndarray) -> float:
    return float(plans[0, (plans[1:] <= problem.limits[:, None]).all(axis=0)].min())


@pytest.mark.parametrize(("budgets", "trials"), [(1, 1500), (2, 1000), (3, 250)])
def test_exact_equals_brute_force(budgets: int, trials: int) -> None:
    rng = np.random.default_rng(budgets)
    for trial in range(trials):
        problem, plans = bare_problem(rng, groups=int(rng.integers(1, 7)), budgets=budgets, copies=trial % 2 == 0)
        optimum = optimum_of(problem, plans)
        plan, bound, _ = Exact().plan(problem)
        assert (problem.total(plan) <= problem.limits).all()
        assert loss_of(problem, plan) == pytest.approx(optimum, rel=1e-9, abs=1e-12)
        assert bound == pytest.approx(optimum, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("budgets", [1, 2, 3])
def test_the_dual_is_at_its_peak_and_below_the_optimum(budgets: int) -> None:
    rng = np.random.default_rng(10 + budgets)
    for _ in range(200):
        problem, plans = bare_problem(rng, groups=5, budgets=budgets, copies=False)
        dual = peak(problem)
        assert dual.bound <= optimum_of(problem, plans) * (1 + 1e-12) + 1e-12
        for _ in range(10):
            other = np.maximum(dual.prices * rng.lognormal(sigma=0.5, size=budgets) + 0.1 * rng.normal(size=budgets), 0)
            chosen = cheapest(problem.offsets, problem.loss, problem.costs, other, 1.0)
            # D is concave: nowhere is it above its peak
            assert dual_value(problem, other, chosen) <= dual.bound * (1 + 1e-9) + 1e-9


def test_the_hull_is_the_dual_of_every_budget() -> None:
    rng = np.random.default_rng(20)
    for _ in range(300):
        problem, plans = bare_problem(rng, groups=5, budgets=1, copies=True)
        hull = lagrangian_hull(problem)
        limits = np.arange(int(plans[1].min()), int(plans[1].max()) + 3)
        bounds, _ = hull.bound(limits)
        for limit, bound in zip(limits, bounds, strict=True):
            at = Problem(**{name: getattr(problem, name) for name in Problem.__slots__} | {"limits": np.array([limit])})
            assert bound == pytest.approx(peak(at).bound, rel=1e-9, abs=1e-9)
        for vertex, (cost, loss) in enumerate(zip(hull.cost, hull.loss, strict=True)):
            plan = hull.first.copy()
            plan[hull.group_of[:vertex]] = hull.options[:vertex]
            assert problem.total(plan)[0] == cost
            assert problem.loss[plan].sum() == pytest.approx(loss)


def test_the_group_relaxation_of_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bound is below the optimum; its plan, where there is one, within the limit; often both are the optimum."""
    monkeypatch.setattr(ties, "FEWEST_TIES", 2)
    rng = np.random.default_rng(30)
    seen = closed = 0
    for _ in range(1500):
        problem, plans = bare_problem(rng, groups=6, budgets=1, copies=True)
        optimum, dual = optimum_of(problem, plans), peak(problem)
        eps = (optimum - dual.bound) * float(rng.choice([0.5, 1.0, 3.0]))
        found = solve_ties(problem, dual, eps)
        if found is None:
            continue
        seen += 1
        assert found.bound <= optimum + 1e-9
        if found.plan is not None:
            assert (problem.total(found.plan) <= problem.limits).all()
            assert loss_of(problem, found.plan) >= optimum - 1e-9
            closed += loss_of(problem, found.plan) <= found.bound + 1e-9
    assert seen > 100
    assert closed > seen // 4


def fused_tables(rng: np.random.Generator) -> tuple[Tables, np.ndarray]:
    """Two groups of 1 to 4 layers in memory, and (3, plans) loss, bytes and hundredths of a us of every plan."""
    widths = rng.integers(1, 5, 2)
    count = int(rng.integers(1, 3)) if widths.max() == 4 else int(rng.integers(1, 4))
    names = tuple(f"model.layers.{g}.{part}" for g, width in enumerate(widths) for part in PARTS[:width])
    layers = len(names)
    loss = rng.choice([0.0, 0.5, 1.0, 2.0, float(rng.lognormal())], (layers, count))
    size = rng.integers(1, 30, (layers, count))
    rows: dict[tuple[tuple[str, ...], int], tuple[LatencyRow, ...]] = {}
    for width in range(1, 5):
        for members in combinations(sorted(PARTS), width):
            rows[members, 1] = tuple(
                LatencyRow(
                    quantizer=f"q-{q}",
                    kernel=kernel,
                    shape=None,
                    latency_us=Decimal(int(rng.integers(1, 60)) * width) / 100,
                    line=0,
                )
                for q in range(count)
                for kernel in KERNELS
                if (width == 1 and q == 0 and kernel == KERNELS[0]) or rng.random() < 0.5
            )
    tables = Tables(
        layers=names,
        out_features=np.ones(layers, np.int64),
        in_features=np.full(layers, 16),
        fusion_group=tuple(name.rsplit(".", 1)[0] for name in names),
        sensitivity=np.ones(layers),
        quantizers=tuple(f"q-{q}" for q in range(count)),
        bits_per_weight=(Fraction(4),) * count,
        distortion=np.ones(count),
        storage_bytes=size,
        loss=loss,
        costs={},
        latency=LatencyTable(path=Path("latency.csv"), rows=rows, constant={}),
        hashes={},
    )
    plans, start = np.zeros((3, 1)), 0
    for width in widths:
        inside = list(range(start, start + int(width)))
        group = [
            reduce(outer, [_block(tables, rows, [inside[at] for at in block]) for block in partition])
            for partition in partitions(list(range(int(width))))
        ]
        plans, start = outer(plans, np.hstack(group)), start + int(width)
    return tables, plans


def _block(
    tables: Tables, rows: dict[tuple[tuple[str, ...], int], tuple[LatencyRow, ...]], layers: list[int]
) -> np.ndarray:
    key = tuple(sorted(tables.layers[at].rsplit(".", 1)[-1] for at in layers))
    columns = [
        (
            sum(tables.loss[at, tables.quantizers.index(row.quantizer)] for at in layers),
            sum(tables.storage_bytes[at, tables.quantizers.index(row.quantizer)] for at in layers),
            int(row.latency_us * 100),
        )
        for row in rows[key, 1]
    ]
    return np.array(columns, float).reshape(-1, 3).T


def test_exact_and_lagrangian_equal_and_bracket_brute_force_with_fusion() -> None:
    rng = np.random.default_rng(40)
    for trial in range(500):
        tables, plans = fused_tables(rng)
        picked = plans[:, int(rng.integers(plans.shape[1]))]
        two = trial % 2 == 0
        within = (plans[2] <= picked[2]) & ((plans[1] <= picked[1]) if two else True)
        optimum = float(plans[0, within].min())
        budgets = Budgets(memory_bytes=int(picked[1]) if two else None, latency_us=float(picked[2]) / 100)
        problem = build_problem(tables, budgets=budgets)
        solution = Exact().solve(problem)
        assert solution.objective == pytest.approx(optimum, rel=1e-9, abs=1e-12)
        assert solution.status == "optimal"
        assert Lagrangian(tolerance=0.0).solve(problem).lower_bound <= optimum + 1e-9
