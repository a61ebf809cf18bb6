"""allocation.json is written whole or not at all, and read back as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from test_alloc_problem import tables

from alloc.problem import Budgets, build_problem
from alloc.solution import Solution, read_allocation, relative_gap, write_allocation
from alloc.solvers import Exact


def test_round_trip_has_the_documented_keys(tmp_path: Path) -> None:
    table = tables(tmp_path / "tables")
    solution = Exact().solve(build_problem(table, budgets=Budgets(bits_per_weight=5.0)))
    path = tmp_path / "deep" / "allocation.json"
    write_allocation(path, solution, table)
    content = json.loads(path.read_text())
    keys = "status objective lower_bound gap costs budgets tolerance prices layers solver runtime_s tables"
    assert list(content) == keys.split()
    assert isinstance(content["costs"]["memory_bytes"], int)
    assert isinstance(content["budgets"]["memory_bytes"], int)
    assert content["tables"]["layers.csv"].startswith("sha256:")
    for entry in content["layers"].values():
        assert entry["kernel"] is None
        assert entry["fused_with"] == []
    again = read_allocation(path)
    assert again.layers == solution.layers
    assert (again.objective, again.lower_bound, again.costs) == (
        solution.objective,
        solution.lower_bound,
        solution.costs,
    )
    assert [item.name for item in path.parent.iterdir()] == ["allocation.json"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    table = tables(tmp_path / "tables")
    solution = Exact().solve(build_problem(table, budgets=Budgets(bits_per_weight=5.0)))
    broken = Solution(
        **{name: getattr(solution, name) for name in Solution.__slots__ if name != "costs"},
        costs={"memory_bytes": solution.costs["memory_bytes"], "latency_us": math.nan},
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_allocation(tmp_path / "out" / "allocation.json", broken, table)
    assert not list((tmp_path / "out").iterdir())


def test_a_plan_over_its_budget_is_no_solution(tmp_path: Path) -> None:
    solution = Exact().solve(build_problem(tables(tmp_path), budgets=Budgets(bits_per_weight=5.0)))
    fields = {name: getattr(solution, name) for name in Solution.__slots__}
    with pytest.raises(ValueError, match="over the budget"):
        Solution(**{**fields, "budgets": {"memory_bytes": solution.costs["memory_bytes"] - 1}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"layers": {"a": {"quant', "damaged JSON"),
        ("[1, 2]", "no plan"),
        ('{"objective": 1}', "no plan"),
        ('{"layers": {}}', "no layers"),
        ('{"layers": {"a": {"quantizer": 3}}}', "layer a"),
        ('{"layers": {"a": {"quantizer": "q", "fused_with": ["b"]}}}', "fused with b"),
    ],
)
def test_damaged_plans_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_allocation(path)
    assert "plan.json" in str(caught.value)


def test_gap() -> None:
    assert relative_gap(2.0, 1.0) == 0.5
    assert relative_gap(0.0, 0.0) == 0.0
    assert relative_gap(0.0, -1.0) == math.inf
    assert relative_gap(-1.0, -2.0) == 1.0
