"""The baseline: one quantizer for every layer, the best within the budgets (pinned layers keep theirs).

Where latency counts, every group still takes its fastest partition and kernels. The bound is the Lagrangian one of the
full problem, so that the gap says what mixing could win."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.solution import Solution
from alloc.solvers.certificate import certify
from alloc.solvers.dual import peak
from alloc.solvers.single import fastest, uniform_problems

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Best single quantizer within every budget."""

    tolerance: float = 1e-9

    name: ClassVar[str] = "uniform"
    exact: ClassVar[bool] = False
    max_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no quantizer fits, naming the cheapest uniform plan."""
        started = time.perf_counter()
        candidates = uniform_problems(problem)
        plans = [fastest(part) for part in candidates]
        feasible = [at for at, part in enumerate(candidates) if (part.total(plans[at]) <= part.limits).all()]
        if not feasible:
            raise ValueError(_nothing_fits(problem, [part.total(plans[at]) for at, part in enumerate(candidates)]))
        best = min(feasible, key=lambda at: float(candidates[at].loss[plans[at]].sum()))
        dual = peak(problem)
        return certify(
            candidates[best],
            plans[best],
            lower_bound=dual.bound,
            prices=dual.prices,
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
        )


def _nothing_fits(problem: Problem, totals: list[Ints]) -> str:
    if not totals:
        return "no quantizer of the palette has a latency row for every layer: there is no uniform plan"
    scope = problem.scope
    smallest = min(totals, key=lambda total: int(np.max(total - problem.limits)))
    parts = zip(problem.units, smallest, strict=True)
    needs = ", ".join(unit.describe(unit.natural(int(total)), scope.params, scope.batch) for unit, total in parts)
    return f"no single quantizer of the palette is within the budgets; the nearest uniform plan needs {needs}"
