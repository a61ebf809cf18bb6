"""Mixed answers are never worse than a uniform plan of the same budgets; two budgets that exclude each other say where
they meet."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from alloc_instances import all_plans, random_instance

from alloc.problem import Budgets, build_problem
from alloc.solvers import Convex, Exact, Greedy, Lagrangian, Uniform
from alloc.tables import read_tables


@pytest.mark.parametrize("solver", [Exact(), Lagrangian(), Convex(), Greedy()], ids=lambda s: s.name)
def test_never_worse_than_uniform(tmp_path: Path, solver: Exact) -> None:
    rng = np.random.default_rng(5)
    compared = 0
    for trial in range(40):
        instance = random_instance(rng, groups=5, widest=2, quantizers=4, latency=trial % 2 == 1)
        tables = read_tables(instance.write(tmp_path))
        quantizer = tables.quantizers[int(rng.integers(4))]
        latency = float(rng.uniform(0.5, 60.0)) if trial % 2 else None
        try:
            problem = build_problem(tables, budgets=Budgets(uniform=quantizer, latency_us=latency))
            uniform = Uniform().solve(problem)
        except ValueError:
            continue
        compared += 1
        assert solver.solve(problem).objective <= uniform.objective
    assert compared > 15


def test_two_budgets_that_exclude_each_other_name_the_smallest_joint_points(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    seen = 0
    for _ in range(200):
        instance = random_instance(rng, groups=2, widest=2, quantizers=2, latency=True)
        plans = all_plans(instance.option_table(latency=True))
        memory = int(rng.integers(plans[:, 1].min(), plans[:, 1].max() + 1))
        latency = int(rng.integers(plans[:, 2].min(), plans[:, 2].max() + 1))
        if ((plans[:, 1] <= memory) & (plans[:, 2] <= latency)).any():
            continue
        problem = build_problem(
            read_tables(instance.write(tmp_path)),
            budgets=Budgets(memory_bytes=memory, latency_us=(latency + instance.constant) / 100),
        )
        with pytest.raises(ValueError, match="together") as error:
            Exact().solve(problem)
        found = re.search(r"at latency_us=.* the smallest is memory_bytes=(\d+) .*at memory_bytes=", str(error.value))
        assert found is not None, str(error.value)
        assert int(found.group(1)) == plans[plans[:, 2] <= latency, 1].min()
        least = re.search(r"at memory_bytes=.* the smallest is latency_us=([\d.]+)", str(error.value))
        assert least is not None
        wanted = (plans[plans[:, 1] <= memory, 2].min() + instance.constant) / 100
        assert float(least.group(1)) == pytest.approx(wanted)
        seen += 1
    assert seen > 5
