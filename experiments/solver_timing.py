"""One solver on one problem in a process of its own: `experiments.bench_solvers` starts it with a JSON task on stdin.

The last line of stdout is the answer. Cold start: from the start of the process to the first plan, imports and tables
included, the compile cache warm. Warm: the solve alone, repeated. Memory: the peak of this process; CBC is a program of
its own, which is not counted."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from alloc.problem import Budgets, Problem, build_problem
from alloc.solvers import SOLVERS, Cbc, Fixed, Highs, Milp, Solver
from alloc.tables import read_tables
from experiments.rival_solvers import installed_rivals

BUDGETS = ("bits_per_weight", "memory_bytes", "latency_us", "tokens_per_second")
OPTIONS = ("members", "kernels", "fusion")
PACKAGES = {"milp-highs": "highspy", "milp-cbc": "pulp", "scipy-milp": "scipy", "convex": "cvxpy"}


def contestants(time_limit_s: float) -> dict[str, Solver]:
    """Name -> solver: all of SOLVERS with their defaults (`fixed` re-prices a given plan and is left out), PuLP once
    with each of its programs, and what else is installed."""
    found: list[Any] = []
    for solver in SOLVERS:
        if solver is Milp:
            found += [Milp(backend=backend, time_limit_s=time_limit_s) for backend in (Highs(), Cbc())]
        elif solver is not Fixed:
            found.append(solver())
    named = {solver.backend.name if isinstance(solver, Milp) else solver.name: solver for solver in found}
    return named | {solver.name: solver for solver in installed_rivals(time_limit_s)}


def problem_of(tables: str, case: Mapping[str, Any]) -> Problem:
    """The problem of a case: budgets, and `members`, `kernels` (patterns) and `fusion` where it has them."""
    unknown = sorted(case.keys() - {*BUDGETS, *OPTIONS})
    if unknown:
        raise ValueError(f"a case has {unknown[0]!r}; known are {', '.join((*BUDGETS, *OPTIONS))}")
    budgets = Budgets(**{name: case[name] for name in BUDGETS if name in case})
    options = {name: case[name] for name in OPTIONS if name in case}
    return build_problem(read_tables(tables), budgets=budgets, **options)


def measure(task: Mapping[str, Any]) -> dict[str, Any]:
    """A row: what was found, and its times in seconds."""
    name = str(task["solver"])
    solver = contestants(float(task["time_limit_s"]))[name]
    problem = problem_of(str(task["tables"]), task["case"])
    row: dict[str, Any] = {"solver": name, "groups": problem.groups, "options": len(problem.loss)}
    if solver.max_budgets is not None and len(problem.limits) > solver.max_budgets:
        return row | {"error": f"takes {solver.max_budgets} budget"}
    try:
        solution = solver.solve(problem)
    except ValueError as error:
        return row | {"error": str(error)}
    row["cold_start_s"] = time.time() - float(task["started"])
    seconds, calls = [], []
    # a program that runs into its time limit is run once
    repeats = int(task["repeats"]) if solution.runtime_s < 0.5 * float(task["time_limit_s"]) else 0
    for _ in range(repeats):
        before = time.perf_counter()
        solution = solver.solve(problem)
        calls.append(time.perf_counter() - before)
        seconds.append(solution.runtime_s)
    seconds = seconds or [solution.runtime_s]
    package = PACKAGES.get(name, "ortools" if name.startswith("ortools") else None)
    return row | {
        "package": f"{package} {metadata.version(package)}" if package else None,
        "objective": solution.objective,
        "lower_bound": solution.lower_bound,
        "gap": solution.gap,
        "status": solution.status,
        "solve_s": min(seconds),
        "solve_median_s": median(seconds),
        "solve_most_s": max(seconds),
        "call_s": min(calls, default=None),
        "runs": len(seconds),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def peak_memory_bytes() -> int:
    """The largest resident size so far: VmHWM where the system tells it; ru_maxrss starts from the parent's."""
    path = Path("/proc/self/status")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    answer = measure(json.load(sys.stdin))
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
