"""The front against enumeration at every budget, its knees on curves with known corners, and the command."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from alloc_instances import all_plans, random_instance

from alloc.front import front, information_bound, knees
from alloc.pricing import plan_costs, plan_loss
from alloc.problem import Budgets, build_problem
from alloc.solvers import Exact
from alloc.tables import read_tables
from experiments import entry, pareto

PUBLISHED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "llama31_8b_rtx4090"
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"no published tables at ../shared/data/{PUBLISHED.name}")


@pytest.mark.parametrize("latency", [False, True])
def test_every_point_brackets_the_optimum_and_the_proven_ones_reach_it(tmp_path: Path, latency: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        groups = 2 if latency else 5
        instance = random_instance(rng, groups=groups, widest=3 if latency else 1, quantizers=3, latency=latency)
        plans = all_plans(instance.option_table(latency=latency))
        column = 2 if latency else 1
        tables = read_tables(instance.write(tmp_path))
        budgets = Budgets(latency_us=1e6) if latency else Budgets(memory_bytes=10**9)
        problem = build_problem(tables, budgets=budgets)
        proven = [0, 5, 8]
        found = front(problem, points=9, exact=proven)
        frame = found.frame()
        assert list(frame.index[frame.exact])[:1] == [0]
        assert set(proven) <= set(frame.index[frame.exact])
        assert (np.diff(frame.objective) <= 0).all()
        for at, limit in enumerate(found.limits):
            unit = problem.units[0]
            # the table's times are in hundredths
            scale = 10.0 ** (2 - unit.decimals) if latency else 1.0
            optimum = plans[plans[:, column] <= limit * scale + 1e-6, 0].min()
            assert frame.lower_bound[at] <= optimum + 1e-9
            assert frame.objective[at] >= optimum - 1e-9
            if frame.exact[at]:
                assert frame.objective[at] == pytest.approx(optimum, rel=1e-9, abs=1e-12)
            layers = found.layers(at)
            costs = plan_costs(tables, layers)
            assert frame.memory_bytes[at] == costs["memory_bytes"]
            assert frame.objective[at] == pytest.approx(plan_loss(tables, layers), rel=1e-12, abs=1e-15)
            name = unit.name
            assert frame[name][at] == float(costs[name])
            assert frame[name][at] <= frame.budget[at]
            assert Exact().solve(found.at(at)).objective == pytest.approx(optimum, rel=1e-9, abs=1e-12)


def test_a_front_has_one_budget_and_feasible_limits(tmp_path: Path) -> None:
    instance = random_instance(np.random.default_rng(1), groups=3, widest=1, quantizers=3, latency=True)
    tables = read_tables(instance.write(tmp_path))
    both = build_problem(tables, budgets=Budgets(memory_bytes=10**9, latency_us=1e6))
    with pytest.raises(ValueError, match="one budget"):
        front(both)
    problem = build_problem(tables, budgets=Budgets(memory_bytes=10**9))
    with pytest.raises(ValueError, match=r"memory_bytes=1 .*smallest feasible"):
        front(problem, limits=[1, 10**6])
    with pytest.raises(ValueError, match="points=1"):
        front(problem, points=1)
    with pytest.raises(ValueError, match="point 9"):
        front(problem, points=5, exact=[9])
    with pytest.raises(ValueError, match="exact=6"):
        front(problem, points=5, exact=6)


def test_knees_are_the_corners_of_the_log_curve() -> None:
    budget = np.arange(101.0)
    straight = np.exp2(-0.1 * budget)
    assert not knees(budget, straight).any()
    one = np.exp2(-np.minimum(budget, 30) * 0.2 - np.maximum(budget - 30, 0) * 0.02)
    assert list(np.flatnonzero(knees(budget, one))) == [30]
    slope = np.where(budget < 20, 0.3, np.where(budget < 50, 0.01, np.where(budget < 60, 0.4, 0.01)))
    two = np.exp2(-np.concatenate([[0.0], np.cumsum(slope[:-1])]))
    assert list(np.flatnonzero(knees(budget, two))) == [20, 60]
    assert not knees(budget, np.zeros(101)).any()


def test_information_bound_of_equal_layers_is_the_distortion_rate_function(tmp_path: Path) -> None:
    rows = "\n".join(f"l{i}.q,16,16,g{i},2.0" for i in range(3))
    (tmp_path / "layers.csv").write_text(f"layer,out_features,in_features,fusion_group,sensitivity\n{rows}\n")
    (tmp_path / "quantizers.csv").write_text(
        "quantizer,bits_per_weight,codebook_bytes,distortion\na,2,0,0.1\nb,4,0,0.01\n"
    )
    problem = build_problem(read_tables(tmp_path), budgets=Budgets(bits_per_weight=4))
    size = np.array([3 * 256 * 2 // 8, 3 * 256 * 4 // 8])
    assert information_bound(problem, size) == pytest.approx([3 * 2.0 * 4.0**-2, 3 * 2.0 * 4.0**-4])


@published
def test_published_front() -> None:
    tables = read_tables(PUBLISHED)
    problem = build_problem(tables, budgets=Budgets(bits_per_weight=8.5), members=["tcq-*", "half-tcq-*"])
    proven = np.random.default_rng(0).choice(200, 20, replace=False).tolist()
    frame = front(problem, points=200, exact=proven).frame()
    assert frame.exact[proven].all()
    assert (frame.lower_bound <= frame.objective).all()
    # the relaxation leaves at most one group's step; on 224 layers that is little
    assert frame.gap.max() < 1e-2


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What `python -m experiments.pareto ARGUMENTS` does, in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["pareto.py", *arguments])
    try:
        entry.run(pareto.main, "pareto")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_on_tables_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = random_instance(np.random.default_rng(5), groups=4, widest=2, quantizers=4, latency=True)
    tables, out = instance.write(tmp_path / "tables"), tmp_path / "out"
    assert command(monkeypatch, f"tables={tables}", f"out={out}", "points=20", "exact=[0,3]") == 0
    assert {path.name for path in out.iterdir()} == {
        *("pareto.csv", "run.json"),
        *(f"pareto.{kind}" for kind in ("pdf", "png", "svg")),
    }
    frame = pd.read_csv(out / "pareto.csv")
    assert set(frame.budget) == {"memory_bytes", "latency_us"}
    for name, rows in frame.groupby("budget"):
        mixed, uniform = rows[rows.solver != "uniform"], rows[rows.solver == "uniform"]
        assert (mixed.lower_bound <= mixed.predicted_loss).all()
        assert (mixed[name] <= mixed.limit).all()
        # a uniform plan never beats the bound of a budget that it exceeds
        for _, plan in uniform.iterrows():
            tighter = mixed[mixed.limit >= plan[name]]
            assert (tighter.lower_bound <= plan.predicted_loss * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of run and tables"),
        (["tables=T", "run=R"], "exactly one of run and tables"),
        (["tables=T"], "out is not set"),
        (["tables=T", "out=O", "points=1"], "points=1"),
        (["tables=T", "out=O", "points=many"], "many"),
        (["tables=T", "out=O", "exact=500"], "exact=500"),
        (["tables=T", "out=O", "budget=speed"], "speed"),
        (["tables=T", "out=O", "budget=latency_us"], "latency.csv"),
        (["tables=NOWHERE", "out=O"], "no such tables folder"),
        (["run=NOWHERE"], "run.json is missing"),
    ],
)
def test_bad_input_is_one_message_and_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    instance = random_instance(np.random.default_rng(6), groups=3, widest=1, quantizers=3, latency=False)
    instance.write(tmp_path / "T")
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["T"]
