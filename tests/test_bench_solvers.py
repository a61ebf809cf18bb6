"""The benchmark: other programs bracket the optimum too, the made-up tables are sound, the command writes its rows."""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from alloc_instances import all_plans, random_instance

from alloc.problem import Budgets, build_problem
from alloc.solvers import SOLVERS, Fixed
from alloc.tables import read_tables
from experiments import bench_solvers, entry
from experiments.rival_solvers import OrTools, ScipyMilp, installed_rivals
from experiments.solver_timing import contestants, measure, problem_of
from experiments.synthetic_tables import EXPERT, write_synthetic

CASE = {"latency_us": 5000.0, "kernels": ["tensor-core"]}


@pytest.mark.parametrize(
    "rival",
    [
        ScipyMilp(),
        pytest.param(OrTools(backend="SCIP"), marks=pytest.mark.skipif(not find_spec("ortools"), reason="no ortools")),
        pytest.param(OrTools(backend="SAT"), marks=pytest.mark.skipif(not find_spec("ortools"), reason="no ortools")),
    ],
    ids=lambda rival: rival.name,
)
def test_other_programs_solve_the_same_problem(tmp_path: Path, rival: ScipyMilp | OrTools) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        instance = random_instance(rng, groups=4, widest=1, quantizers=4, latency=False)
        plans = all_plans(instance.option_table(latency=False))
        limit = int(rng.integers(plans[:, 1].min(), plans[:, 1].max() + 1))
        optimum = plans[plans[:, 1] <= limit, 0].min()
        problem = build_problem(read_tables(instance.write(tmp_path)), budgets=Budgets(memory_bytes=limit))
        solution = rival.solve(problem)
        assert solution.objective == pytest.approx(optimum, rel=1e-9, abs=1e-12)
        assert solution.lower_bound <= optimum * (1 + 1e-9)


def test_made_up_tables_obey_their_law(tmp_path: Path) -> None:
    tables = read_tables(write_synthetic(tmp_path / "a"))
    assert len(tables.layers) == 224
    bits = np.array([float(value) for value in tables.bits_per_weight])
    gap_db = 10 * np.log10(tables.distortion * 4.0**bits)
    assert sorted({round(float(gap), 6) for gap in gap_db}) == [0.8, 1.2, 2.8, 3.8]
    again = read_tables(write_synthetic(tmp_path / "b"))
    assert again.hashes == tables.hashes
    problem = problem_of(str(tmp_path / "a"), CASE)
    assert problem.groups == 128
    tied = read_tables(write_synthetic(tmp_path / "c", EXPERT, blocks=2, experts=200, digits=2))
    assert len(tied.layers) == 1200
    assert len(np.unique(tied.sensitivity)) < 400
    assert tied.latency is None


def test_every_solver_is_a_contestant() -> None:
    found = contestants(1.0)
    named = {solver.name for solver in SOLVERS if solver is not Fixed} - {"milp"}
    assert named | {"milp-highs", "milp-cbc"} | {rival.name for rival in installed_rivals(1.0)} == set(found)


def test_a_row_says_what_was_found(tmp_path: Path) -> None:
    folder = str(write_synthetic(tmp_path, blocks=2))
    case = {"bits_per_weight": 3.25}
    task = {"tables": folder, "case": case, "repeats": 2, "time_limit_s": 5.0, "started": time.time()}
    row = measure(task | {"solver": "exact"})
    assert row["status"] == "optimal"
    assert row["runs"] == 2
    assert 0 < row["solve_s"] <= row["solve_median_s"] <= row["solve_most_s"] <= row["cold_start_s"] + 10
    assert row["groups"] == 14
    refused = measure(task | {"solver": "water_filling", "case": {"bits_per_weight": 3.25, "latency_us": 1000.0}})
    assert refused["error"]
    with pytest.raises(ValueError, match="bits"):
        problem_of(folder, {"bits": 3})


def test_the_table_has_a_row_a_solver_and_says_what_failed() -> None:
    base = {"instance": "i", "groups": 3, "options": 9, "cold_start_s": 1.0, "peak_memory_bytes": 2e8}
    rows = pd.DataFrame(
        [
            {**base, "case": "c", "solver": "good", "objective": 1.0, "gap": 0.0, "solve_s": 0.0125},
            {**base, "case": "d", "solver": "good", "objective": 2.0, "gap": 1e-3, "solve_s": 0.5},
            {**base, "case": "c", "solver": "slow", "objective": 1.1, "gap": float("inf"), "solve_s": 2.0},
            {"instance": "i", "case": "d", "solver": "slow", "error": "no answer"},
        ]
    )
    text = bench_solvers.markdown(rows)
    assert "| good | 12.5 ms, proven | 500.0 ms, best, gap 1.0e-03 | 1.0 s | 200 MB |" in text
    assert "| slow | 2.00 s, +1.0e-01, no bound | - | 1.0 s | 200 MB |" in text
    assert "c: 3 groups, 9 options" in text
    assert "`slow`, d: no answer" in text
    assert "no answer" in bench_solvers.markdown(rows.iloc[3:][["instance", "case", "solver", "error"]])


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What `python -m experiments.bench_solvers ARGUMENTS` does, in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["bench_solvers.py", *arguments])
    try:
        entry.run(bench_solvers.main, "bench_solvers")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["solvers=[exact,greedy]", "scale=false", "repeats=1", "~cases", "+cases={memory:{bits_per_weight:3.25}}"]
    assert command(monkeypatch, f"out={tmp_path / 'out'}", *few) == 0
    content = json.loads((tmp_path / "out/solvers.json").read_text())
    rows = {row["solver"]: row for row in content["rows"]}
    assert rows["exact"]["status"] == "optimal"
    assert rows["greedy"]["objective"] >= rows["exact"]["objective"] * (1 - 1e-12)
    assert content["environment"]["processor"]
    assert ", proven |" in (tmp_path / "out/solvers.md").read_text()
    capsys.readouterr()
    for bad, message in (
        ("solvers=[nope]", "nope"),
        ("repeats=0", "repeats=0"),
        ("cases.memory.bits_per_weight=0.1", "impossible"),
        (f"tables={tmp_path / 'absent'}", "absent"),
    ):
        assert command(monkeypatch, f"out={tmp_path / 'bad'}", "scale=false", bad) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "bad").exists()
