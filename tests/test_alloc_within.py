"""Budgets within name patterns: hard limits of the layers that match, alone and beside a budget on everything."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from alloc_instances import random_instance

from alloc.problem import Budgets, build_problem
from alloc.solvers import Exact, Greedy, Lagrangian
from alloc.solvers.parts import parts
from alloc.tables import Tables, read_tables


def enumerated(tables: Tables, limits: dict[str, int]) -> float | None:
    """The least loss of all plans whose layers within each pattern hold no more than its bytes."""
    best = None
    for plan in product(range(len(tables.quantizers)), repeat=len(tables.layers)):
        held = {
            pattern: sum(
                int(tables.storage_bytes[at, q]) for at, q in enumerate(plan) if fnmatchcase(tables.layers[at], pattern)
            )
            for pattern in limits
        }
        if all(held[pattern] <= limit for pattern, limit in limits.items()):
            loss = sum(float(tables.loss[at, q]) for at, q in enumerate(plan))
            best = loss if best is None else min(best, loss)
    return best


def test_exact_equals_enumeration(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    solved = 0
    for _ in range(60):
        tables = read_tables(random_instance(rng, groups=4, widest=1, quantizers=3, latency=False).write(tmp_path))
        first = f"*{tables.layers[0].rsplit('.', 2)[0].rsplit('.', 1)[-1]}*" if rng.random() < 0.3 else tables.layers[0]
        patterns = [first, tables.layers[1]] + (["*"] if rng.random() < 0.7 else [])
        within = {pattern: float(rng.uniform(1.5, 8.0)) for pattern in patterns}
        limits = {}
        for pattern, bits in within.items():
            params = sum(
                int(n) for n, name in zip(tables.params, tables.layers, strict=True) if fnmatchcase(name, pattern)
            )
            limits[pattern] = int(np.floor(bits * params / 8))
        optimum = enumerated(tables, limits)
        try:
            problem = build_problem(tables, budgets=Budgets(within=within))
            solution = Exact().solve(problem)
        except ValueError:
            assert optimum is None
            continue
        solved += 1
        assert optimum is not None
        assert solution.objective == pytest.approx(optimum, rel=1e-9, abs=1e-12)
        assert solution.status == "optimal"
        assert set(solution.budgets) == {f"memory_bytes[{pattern}]" for pattern in within}
        for solver in (Lagrangian(), Greedy()):
            other = solver.solve(problem)
            assert other.lower_bound <= optimum * (1 + 1e-9) + 1e-12
            assert all(other.costs[name] <= limit for name, limit in other.budgets.items())
    assert solved > 20


def test_budgets_that_share_no_layer_are_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tables = read_tables(random_instance(rng, groups=5, widest=1, quantizers=4, latency=False).write(tmp_path))
    within = dict.fromkeys(tables.layers[:3], 16.0)
    problem = build_problem(tables, budgets=Budgets(within=within))
    found = [groups.tolist() for groups, _ in parts(problem)]
    assert sorted(group for groups in found for group in groups) == list(range(problem.groups))
    moves = np.diff(problem.offsets) > 1
    apart = int(moves[:3].sum())
    assert len(found) == apart + (apart < problem.groups)
    together = build_problem(tables, budgets=Budgets(within={**within, "*": 15.0}))
    choices = np.diff(together.offsets) > 1
    assert len(list(parts(together))) == int(choices.any()) + int(not choices.all())


def test_a_pattern_without_a_layer_and_a_limit_too_low_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    tables = read_tables(random_instance(rng, groups=3, widest=1, quantizers=3, latency=False).write(tmp_path))
    with pytest.raises(ValueError, match="within 'nothing' matches no layer to allocate"):
        build_problem(tables, budgets=Budgets(within={"nothing": 3.0}))
    with pytest.raises(ValueError, match=r"memory_bytes\[\*\].*impossible; achievable: memory_bytes\[\*\]"):
        build_problem(tables, budgets=Budgets(within={"*": 0.01}))
    with pytest.raises(ValueError, match="must be finite and above 0"):
        Budgets(within={"*": -1.0})
