"""Every solver's certificate brackets the optimum found by enumeration; the exact ones reach it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from alloc_instances import Instance, all_plans, random_instance

from alloc.pricing import plan_costs, plan_loss
from alloc.problem import Budgets, Problem, build_problem
from alloc.solution import Solution
from alloc.solvers import (
    SOLVERS,
    Cbc,
    Convex,
    Evolutionary,
    Exact,
    Fixed,
    Greedy,
    Highs,
    Lagrangian,
    Milp,
    TwoLevel,
    Uniform,
    WaterFilling,
)
from alloc.solvers.single import uniform_problems
from alloc.tables import read_tables

PUBLISHED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "llama31_8b_rtx4090"
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"no published tables at ../shared/data/{PUBLISHED.name}")
HEURISTICS = (
    Lagrangian(), Convex(), WaterFilling(), Greedy(), Evolutionary(generations=20, offspring=8), TwoLevel(), Uniform(),
)  # fmt: skip


def check(solution: Solution, problem: Problem, optimum: float) -> None:
    """The bound is below the optimum, the plan above it and within every budget, re-priced from the tables."""
    slack = 1e-9 * max(abs(optimum), 1e-3)
    assert solution.lower_bound <= optimum + slack
    assert solution.objective >= optimum - slack
    tables, scope = problem.tables, problem.scope
    costs = plan_costs(tables, solution.layers, batch=scope.batch, whole_model=scope.whole_model)
    for name, limit in scope.limits.items():
        assert costs[name] <= limit
    assert solution.objective == plan_loss(tables, solution.layers)
    assert (solution.status == "optimal") == (solution.gap <= solution.tolerance)


def limits_between(rng: np.random.Generator, plans: np.ndarray, columns: list[int]) -> list[float]:
    """For each column a limit between what some plan spends and the least; at times exactly what a plan spends."""
    pick = plans[int(rng.integers(len(plans)))]
    if rng.random() < 0.5:
        return [float(pick[column]) for column in columns]
    return [float(np.floor(rng.uniform(plans[:, column].min(), plans[:, column].max() + 1))) for column in columns]


def optimum_within(plans: np.ndarray, columns: list[int], limits: list[float]) -> float | None:
    fits = np.all([plans[:, column] <= limit for column, limit in zip(columns, limits, strict=True)], axis=0)
    return float(plans[fits, 0].min()) if fits.any() else None


def exact_agrees(problem: Problem, optimum: float | None) -> None:
    if optimum is None:
        with pytest.raises(ValueError, match="together"):
            Exact().solve(problem)
        return
    solution = Exact().solve(problem)
    check(solution, problem, optimum)
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(optimum, rel=1e-9, abs=1e-12)


def problem_or_none(
    instance: Instance, folder: Path, budgets: Budgets, fusion: bool, plans_fit: bool
) -> Problem | None:
    """None where a budget alone is impossible, which must agree with the enumeration."""
    tables = read_tables(instance.write(folder))
    try:
        return build_problem(tables, budgets=budgets, fusion=fusion)
    except ValueError:
        pass
    with pytest.raises(ValueError, match="impossible"):
        build_problem(tables, budgets=budgets, fusion=fusion)
    assert not plans_fit
    return None


def test_exact_equals_enumeration_under_a_memory_budget(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for trial in range(800):
        instance = random_instance(
            rng, groups=int(rng.integers(1, 6)), widest=1, quantizers=int(rng.integers(1, 6)), latency=False
        )
        plans = all_plans(instance.option_table(latency=False))
        limits = limits_between(rng, plans, [1])
        optimum = optimum_within(plans, [1], limits)
        problem = problem_or_none(instance, tmp_path, Budgets(memory_bytes=int(limits[0])), True, optimum is not None)
        if problem is not None:
            assert optimum is not None, trial
            exact_agrees(problem, optimum)


@pytest.mark.parametrize("fusion", [True, False])
def test_exact_equals_enumeration_with_fusion_and_one_or_two_budgets(tmp_path: Path, fusion: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(120):
        instance = random_instance(rng, groups=2, widest=int(rng.integers(1, 5)), quantizers=2, latency=True)
        plans = all_plans(instance.option_table(latency=True, fusion=fusion))
        columns = [2] if rng.random() < 0.4 else [1, 2]
        limits = limits_between(rng, plans, columns)
        optimum = optimum_within(plans, columns, limits)
        budgets = Budgets(
            memory_bytes=max(int(limits[0]), 1) if len(columns) == 2 else None,
            latency_us=(limits[-1] + instance.constant) / 100,
        )
        problem = problem_or_none(instance, tmp_path, budgets, fusion, optimum is not None)
        if problem is not None:
            exact_agrees(problem, optimum)


def test_exact_equals_enumeration_under_three_budgets(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        instance = random_instance(rng, groups=2, widest=2, quantizers=3, latency=True, energy=True)
        plans = all_plans(instance.option_table(latency=True))
        limits = limits_between(rng, plans, [1, 2, 3])
        optimum = optimum_within(plans, [1, 2, 3], limits)
        budgets = Budgets(
            memory_bytes=max(int(limits[0]), 1),
            latency_us=(limits[1] + instance.constant) / 100,
            named={"energy": max(limits[2], 0.5)},
        )
        problem = problem_or_none(instance, tmp_path, budgets, True, optimum is not None)
        if problem is not None:
            exact_agrees(problem, optimum)


@pytest.mark.parametrize(
    "solver", [*HEURISTICS, Milp(backend=Highs()), Milp(backend=Cbc())], ids=lambda s: type(s).__name__
)
def test_certificate_brackets_the_optimum(tmp_path: Path, solver: Lagrangian | Milp) -> None:
    rng = np.random.default_rng(3)
    solved = 0
    for _ in range(8 if solver.exact else 25):
        instance = random_instance(rng, groups=4, widest=1, quantizers=4, latency=False)
        plans = all_plans(instance.option_table(latency=False))
        budgets = Budgets(memory_bytes=int(rng.integers(plans[:, 1].min(), plans[:, 1].max() + 1)))
        optimum = optimum_within(plans, [1], [float(budgets.memory_bytes or 0)])
        problem = build_problem(read_tables(instance.write(tmp_path)), budgets=budgets)
        assert optimum is not None
        if isinstance(solver, Uniform | TwoLevel) and not any(
            (part.costs.sum(axis=1) <= part.limits).all() for part in uniform_problems(problem)
        ):
            with pytest.raises(ValueError, match="single quantizer"):
                solver.solve(problem)
            continue
        solution = solver.solve(problem)
        solved += 1
        check(solution, problem, optimum)
        if solver.exact:
            assert solution.objective == pytest.approx(optimum, rel=1e-9, abs=1e-12)
    assert solved > 4


def test_uniform_is_the_best_single_quantizer(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for _ in range(40):
        instance = random_instance(rng, groups=3, widest=2, quantizers=4, latency=False)
        uniform = {
            quantizer[0]: (
                sum(layer[4] * quantizer[3] for layer in instance.layers),
                sum(instance.bytes_of(layer, quantizer) for layer in instance.layers),
            )
            for quantizer in instance.quantizers
        }
        limit = sorted(size for _, size in uniform.values())[int(rng.integers(len(uniform)))]
        problem = build_problem(read_tables(instance.write(tmp_path)), budgets=Budgets(memory_bytes=limit))
        best = min(loss for loss, size in uniform.values() if size <= limit)
        solution = Uniform().solve(problem)
        assert solution.objective == pytest.approx(best, rel=1e-12)
        assert len({choice.quantizer for choice in solution.layers.values()}) == 1
        assert Exact().solve(problem).objective <= solution.objective * (1 + 1e-12)


def test_a_search_without_room_still_answers_with_an_honest_bound(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    instance = random_instance(rng, groups=9, widest=1, quantizers=5, latency=False)
    plans = all_plans(instance.option_table(latency=False))
    limit = float(np.floor(np.median(plans[:, 1])))
    problem = build_problem(read_tables(instance.write(tmp_path)), budgets=Budgets(memory_bytes=int(limit)))
    optimum = optimum_within(plans, [1], [limit])
    assert optimum is not None
    check(Exact(beam=1, most_work=3, tolerance=0.0).solve(problem), problem, optimum)


def test_a_timed_out_milp_is_not_called_optimal_without_proof(tmp_path: Path) -> None:
    instance = random_instance(np.random.default_rng(6), groups=12, widest=4, quantizers=5, latency=False)
    tables = read_tables(instance.write(tmp_path))
    smallest = sum(min(instance.bytes_of(layer, q) for q in instance.quantizers) for layer in instance.layers)
    problem = build_problem(tables, budgets=Budgets(memory_bytes=int(smallest * 1.3)))
    check(Milp(time_limit_s=1e-3).solve(problem), problem, Exact().solve(problem).objective)


def test_fixed_reprices_a_plan_and_refuses_one_over_budget(tmp_path: Path) -> None:
    instance = random_instance(np.random.default_rng(7), groups=3, widest=3, quantizers=3, latency=True)
    tables = read_tables(instance.write(tmp_path))
    problem = build_problem(tables, budgets=Budgets(latency_us=1e4))
    best = Exact().solve(problem)
    again = Fixed(layers=best.layers).solve(problem)
    assert (again.objective, again.costs, again.layers) == (best.objective, best.costs, best.layers)
    spent = best.costs["memory_bytes"]
    with pytest.raises(ValueError, match="over the budget"):
        Fixed(layers=best.layers).solve(
            build_problem(tables, budgets=Budgets(memory_bytes=int(spent) - 1), members=["*"])
        )
    name = next(iter(best.layers))
    with pytest.raises(ValueError, match=name):
        Fixed(layers={key: value for key, value in best.layers.items() if key != name}).solve(problem)


def test_price_is_what_one_more_byte_buys(tmp_path: Path) -> None:
    """The price is a slope of the relaxed optimum: the bound at another budget is never above its line."""
    instance = random_instance(np.random.default_rng(8), groups=6, widest=1, quantizers=5, latency=False)
    tables = read_tables(instance.write(tmp_path))
    plans = all_plans(instance.option_table(latency=False))
    low, high = int(plans[:, 1].min()), int(plans[:, 1].max())
    middle = (low + high) // 2
    here = Lagrangian().solve(build_problem(tables, budgets=Budgets(memory_bytes=middle)))
    for limit in range(low, high, max((high - low) // 25, 1)):
        there = Lagrangian().solve(build_problem(tables, budgets=Budgets(memory_bytes=limit)))
        line = here.lower_bound - here.prices["memory_bytes"] * (limit - middle)
        assert there.lower_bound >= line - 1e-9 * abs(line)


def test_every_solver_says_what_it_can() -> None:
    assert {solver.name for solver in SOLVERS} >= {
        "exact",
        "milp",
        "lagrangian",
        "convex",
        "water_filling",
        "uniform",
        "fixed",
    }
    assert all(
        isinstance(solver.exact, bool) and (solver.max_budgets is None or solver.max_budgets > 0) for solver in SOLVERS
    )


@published
@pytest.mark.parametrize(
    ("optimum", "budgets", "members", "fusion"),
    [
        (0.0670745627, Budgets(bits_per_weight=3.25), ["tcq-*", "half-tcq-*"], True),
        (0.1016652057, Budgets(latency_us=5000.0), None, True),
        (0.1546794164, Budgets(latency_us=5000.0), None, False),
        (0.0917726531, Budgets(bits_per_weight=3.0, latency_us=5100.0), None, True),
        (0.1246052003, Budgets(bits_per_weight=2.75, tokens_per_second=200.0), None, True),
    ],
)
def test_published_instance(optimum: float, budgets: Budgets, members: list[str] | None, fusion: bool) -> None:
    """Proven optima published with the data (its README), to the ten digits given."""
    tables = read_tables(PUBLISHED)
    problem = build_problem(tables, budgets=budgets, members=members, fusion=fusion, kernels=["tensor-core"])
    solution = Exact().solve(problem)
    assert solution.objective == pytest.approx(optimum, rel=1e-9)
    assert solution.status == "optimal"
    assert solution.gap <= 1e-9
    check(solution, problem, solution.objective)
    check(Lagrangian().solve(problem), problem, solution.objective)


@published
@pytest.mark.parametrize(("figure", "objective"), [("figure1c", 0.110345), ("figure1d", 0.103022)])
def test_published_plans_reprice(figure: str, objective: float) -> None:
    tables = read_tables(PUBLISHED)
    problem = build_problem(tables, budgets=Budgets(latency_us=1e5))
    solution = Fixed(plan=str(PUBLISHED / f"{figure}.json")).solve(problem)
    assert solution.objective == pytest.approx(objective, abs=5e-7)
    bits = 8 * solution.costs["memory_bytes"] / int(tables.params.sum())
    assert bits == pytest.approx({"figure1c": 2.858, "figure1d": 2.959}[figure], abs=5e-4)
    latency = solution.costs["latency_us"]
    assert latency == pytest.approx({"figure1c": 5247.06, "figure1d": 4991.40}[figure], abs=5e-3)


def test_a_beamed_search_is_followed_by_a_proof(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    for _ in range(100):
        instance = random_instance(rng, groups=5, widest=1, quantizers=5, latency=False)
        plans = all_plans(instance.option_table(latency=False))
        limits = limits_between(rng, plans, [1])
        optimum = optimum_within(plans, [1], limits)
        assert optimum is not None
        problem = build_problem(read_tables(instance.write(tmp_path)), budgets=Budgets(memory_bytes=int(limits[0])))
        solution = Exact(beam=2).solve(problem)
        check(solution, problem, optimum)
        assert solution.status == "optimal"
