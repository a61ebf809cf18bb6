r"""Proven optimum: Lagrangian bound, then every plan that could be better, in a widening core (see core.py).

The core is searched with eps = (plan - bound) / 64, / 16, ...: the first eps at which a plan appears decides, and an
eps without one raises the lower bound to D + eps. A wide core is first searched with a beam, whose plan tells how far
the last, complete search has to go. If that needs more states than allowed, the answer is the best plan found, with
the bound proven so far."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.solution import Solution, relative_gap
from alloc.solvers.certificate import certify, out_of_reach
from alloc.solvers.core import make_core
from alloc.solvers.dual import Dual, peak
from alloc.solvers.rounding import fit

Ints = NDArray[np.int64]
WIDENING = 4.0
FIRST_SHARE = 1.0 / 64.0
# of the plans priced on the way to the peak, the last few are nearest to the limits
LAST_PLANS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """`tolerance`: relative gap at which the search may stop; `most_states`: states held in one search (about 40 bytes
    each while extended)."""

    tolerance: float = 1e-9
    beam: int = 4096
    most_states: int = 20_000_000

    name: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True
    max_budgets: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance} is not accepted; it must be at least 0 and below 1")

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no plan meets all budgets together."""
        started = time.perf_counter()
        dual = peak(problem)
        plan, bound = self._search(problem, dual)
        return certify(
            problem,
            plan,
            lower_bound=bound,
            prices=dual.prices,
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
        )

    def _search(self, problem: Problem, dual: Dual) -> tuple[Ints, float]:
        """(plan, proven lower bound)."""
        plans = [plan for start in dual.plans[-LAST_PLANS:] if (plan := fit(problem, start)) is not None]
        plan = min(plans, key=lambda plan: loss_of(problem, plan)) if plans else None
        worst = float(np.maximum.reduceat(problem.loss, problem.offsets[:-1]).sum())
        ceiling = worst if plan is None else loss_of(problem, plan)
        bound, width = dual.bound, max(ceiling - dual.bound, 0.0)
        eps = width * FIRST_SHARE
        while plan is None or relative_gap(ceiling, bound) > self.tolerance:
            eps = min(eps, width)
            found = make_core(problem, dual, eps).search(dual.bound + eps, most_states=self.most_states, beam=self.beam)
            if found.plan is not None and (plan is None or loss_of(problem, found.plan) < ceiling):
                plan, ceiling = found.plan, loss_of(problem, found.plan)
            if found.complete:
                if found.plan is not None:
                    return found.plan, loss_of(problem, found.plan)
                bound = max(bound, min(dual.bound + eps, ceiling))
            if eps >= width or found.plan is not None:
                break
            eps *= WIDENING
        if plan is not None and relative_gap(ceiling, bound) <= self.tolerance:
            return plan, bound
        return self._finish(problem, dual, plan, bound, worst)

    def _finish(
        self, problem: Problem, dual: Dual, plan: Ints | None, bound: float, worst: float
    ) -> tuple[Ints, float]:
        """One complete search up to the best plan known, or narrower ones for the bound where that is too much."""
        ceiling = worst if plan is None else loss_of(problem, plan)
        eps = max(ceiling - dual.bound, 0.0)
        for share in (1.0, 0.8, 0.6, 0.4):
            if dual.bound + share * eps <= bound:
                break
            found = make_core(problem, dual, share * eps).search(dual.bound + share * eps, most_states=self.most_states)
            if found.complete and found.plan is not None:
                return found.plan, loss_of(problem, found.plan)
            if found.complete:
                bound = dual.bound + share * eps
                break
        if plan is None:
            raise out_of_reach(problem)
        return plan, min(bound, ceiling)


def loss_of(problem: Problem, plan: Ints) -> float:
    """Loss of a plan, correctly rounded."""
    return math.fsum(problem.loss[plan].tolist())
