"""The baseline: one quantizer for every layer, the best within the budgets (pinned layers keep theirs).

Where latency counts, every group still takes its fastest partition and kernels. The bound is the Lagrangian one of the
full problem, so that the gap says what mixing could win."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.fusion import NoOptionError
from alloc.problem import Problem, lay_out
from alloc.solution import Solution
from alloc.solvers.certificate import certify
from alloc.solvers.dual import cheapest, peak

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
        # the loss is given: what is left to choose is the fastest partition and kernel
        plans = [
            cheapest(part.offsets, part.loss, part.costs, 1.0 / np.maximum(part.costs.max(axis=1), 1), 0.0)
            for part in candidates
        ]
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


def uniform_problems(problem: Problem) -> list[Problem]:
    """For each quantizer, the problem that leaves every layer that quantizer, or its pin."""
    scope = problem.scope
    free = scope.allowed.sum(axis=1) > 1
    single = scope.allowed & ~free[:, None]
    problems = []
    for quantizer in np.flatnonzero(scope.allowed[scope.allocated].any(axis=0)):
        allowed = single.copy()
        allowed[free, quantizer] = scope.allowed[free, quantizer]
        restricted = replace(scope, allowed=allowed)
        if allowed[scope.allocated].any(axis=1).all():
            # a quantizer that the latency table does not have for every layer makes no uniform plan
            with suppress(NoOptionError):
                problems.append(lay_out(restricted))
    return problems


def _nothing_fits(problem: Problem, totals: list[Ints]) -> str:
    if not totals:
        return "no quantizer of the palette has a latency row for every layer: there is no uniform plan"
    scope = problem.scope
    smallest = min(totals, key=lambda total: int(np.max(total - problem.limits)))
    parts = zip(problem.units, smallest, strict=True)
    needs = ", ".join(unit.describe(unit.natural(int(total)), scope.params, scope.batch) for unit, total in parts)
    return f"no single quantizer of the palette is within the budgets; the nearest uniform plan needs {needs}"
