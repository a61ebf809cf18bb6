"""What an explanation says, against re-pricing the plan with the option in place; two plans; the command."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from alloc_instances import random_instance

from alloc.choice import Choice
from alloc.explain import difference, explain
from alloc.pricing import plan_costs, plan_loss
from alloc.problem import Budgets, build_problem
from alloc.solution import Solution, write_allocation
from alloc.solvers import Exact, Fixed
from alloc.tables import Tables, read_tables
from experiments import entry
from experiments import explain as explain_command


def solved(folder: Path, seed: int, *, latency: bool) -> tuple[Tables, Solution]:
    """Tables and the best plan at a middle budget."""
    instance = random_instance(np.random.default_rng(seed), groups=4, widest=3, quantizers=4, latency=latency)
    tables = read_tables(instance.write(folder))
    budgets = Budgets(memory_bytes=10**6, latency_us=1e5) if latency else Budgets(memory_bytes=10**6)
    loose = Exact().solve(build_problem(tables, budgets=budgets))
    # the loosest plan, then three quarters of its bytes where that can be met
    memory = int(loose.costs["memory_bytes"])
    for share in (0.75, 0.85, 0.95, 1.0):
        limit = Budgets(memory_bytes=int(share * memory), latency_us=1e5 if latency else None)
        try:
            return tables, Exact().solve(build_problem(tables, budgets=limit))
        except ValueError:
            continue
    return tables, loose


@pytest.mark.parametrize("latency", [False, True])
def test_moves_are_what_repricing_says(tmp_path: Path, latency: bool) -> None:
    moves = 0
    for seed in range(8):
        tables, plan = solved(tmp_path / str(seed), seed, latency=latency)
        costs, loss = plan_costs(tables, plan.layers), plan_loss(tables, plan.layers)
        found = explain(tables, plan)
        assert [row.layer for row in found] == list(tables.layers)
        for row in found:
            assert row.choice == plan.layers[row.layer]
            held = {layer: plan.layers[layer] for layer in row.group}
            assert row.loss == pytest.approx(plan_loss(tables, held), abs=1e-15)
            own = tables.layers.index(row.layer)
            for move, sign in ((row.better, -1), (row.worse, 1)):
                if move is None:
                    continue
                moves += 1
                changed = {**plan.layers, **move.layers}
                assert move.loss == pytest.approx(plan_loss(tables, changed) - loss, rel=1e-9, abs=1e-12)
                after = plan_costs(tables, changed)
                for name, value in move.costs.items():
                    assert value == pytest.approx(float(after[name] - costs[name]), rel=1e-9, abs=1e-9)
                    assert name in plan.prices
                priced = sum(plan.prices[name] * value for name, value in move.costs.items())
                assert move.priced == pytest.approx(priced, rel=1e-9, abs=1e-15)
                before, then = (
                    tables.loss[own, tables.quantizer_index(choices[row.layer].quantizer)]
                    for choices in (plan.layers, changed)
                )
                assert sign * (then - before) > 0 or (move.loss == pytest.approx(0) and move.priced < 0)
    assert moves > 20


def test_the_next_option_is_the_one_of_least_value(tmp_path: Path) -> None:
    """Where memory is the only budget a group is a layer: enumerate its quantizers."""
    for seed in range(8):
        tables, plan = solved(tmp_path / str(seed), seed, latency=False)
        price = plan.prices["memory_bytes"]
        for row in explain(tables, plan):
            at = tables.layers.index(row.layer)
            now = tables.quantizer_index(row.choice.quantizer)
            extra_loss = tables.loss[at] - tables.loss[at, now]
            size = tables.storage_bytes[at]
            net = extra_loss + price * (size - size[now])
            # a quantizer that another one beats in bytes and loss is no option
            beaten = (extra_loss[:, None] >= extra_loss) & (size[:, None] >= size)
            strictly = beaten & ((extra_loss[:, None] > extra_loss) | (size[:, None] > size))
            useful = ~strictly.any(axis=1)
            for move, mask in ((row.better, extra_loss < 0), (row.worse, extra_loss > 0)):
                assert (move is not None) == (mask & useful).any()
                if move is not None:
                    assert move.net == pytest.approx(net[mask & useful].min(), abs=1e-12)


def test_budgets_within_a_pattern_have_prices_of_their_own(tmp_path: Path) -> None:
    tables, loose = solved(tmp_path, 3, latency=False)
    at = [index for index, name in enumerate(tables.layers) if ".0." in name]
    params = int(tables.params[at].sum())
    held = sum(tables.storage_bytes[i, tables.quantizer_index(loose.layers[tables.layers[i]].quantizer)] for i in at)
    budgets = Budgets(memory_bytes=int(loose.costs["memory_bytes"]), within={"*.0.*": 8 * (int(held) + 0.5) / params})
    plan = Exact().solve(build_problem(tables, budgets=budgets))
    for row in explain(tables, plan):
        assert set(row.costs) == {"memory_bytes", "memory_bytes[*.0.*]"}
        assert row.costs["memory_bytes"] == row.memory_bytes
        assert row.costs["memory_bytes[*.0.*]"] == (row.memory_bytes if ".0." in row.layer else 0)


def test_difference_lists_the_layers_that_differ(tmp_path: Path) -> None:
    tables, plan = solved(tmp_path, 3, latency=False)
    name = tables.layers[1]
    other = next(q for q in tables.quantizers if q != plan.layers[name].quantizer)
    layers = {**plan.layers, name: Choice(quantizer=other)}
    problem = build_problem(tables, budgets=Budgets(memory_bytes=10**6))
    second = Fixed(layers=layers).solve(problem)
    rows = difference(tables, plan, second)
    assert list(rows.layer) == [name]
    at = tables.layers.index(name)
    assert rows.memory_bytes_b[0] == tables.storage_bytes[at, tables.quantizer_index(other)]
    assert rows.loss_b[0] - rows.loss_a[0] == pytest.approx(second.objective - plan.objective)
    assert difference(tables, plan, plan).empty
    assert difference(tables, plan, second, "nothing*").empty


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What `python -m experiments.explain ARGUMENTS` does, in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["explain.py", *arguments])
    try:
        entry.run(explain_command.main, "explain")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tables, plan = solved(tmp_path / "tables", 4, latency=True)
    path = tmp_path / "plan.json"
    write_allocation(path, plan, tables)
    base = [f"plan={path}", f"tables={tmp_path / 'tables'}"]
    assert command(monkeypatch, *base, "layer=*.0.*") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in tables.layers if ".0." in name)
    assert "next better" in shown
    assert "next worse" in shown
    assert command(monkeypatch, *base, f"diff={path}") == 0
    assert "0 layers differ" in capsys.readouterr().out
    for arguments, message in (
        (["layer=nope"], "nope"),
        (["kernels=[nope]"], "nope"),
        (["palette.members=[nope]"], "nope"),
        (["batch=7"], "batch 7"),
        (["diff=absent.json"], "absent.json"),
        ([f"tables={tmp_path / 'absent'}"], "absent"),
    ):
        assert command(monkeypatch, *base, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
