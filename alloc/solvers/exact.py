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
from alloc.solvers.certificate import OutOfReachError, certify, out_of_reach
from alloc.solvers.core import make_core
from alloc.solvers.dual import Dual, peak
from alloc.solvers.parts import parts
from alloc.solvers.rounding import fit
from alloc.solvers.ties import solve_ties

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WIDENING = 2.0
FIRST_SHARE = 1.0 / 64.0
TIED_WORK = 8
# of the way from the bound to the best plan: all of it proves the plan, less of it still lifts the bound
LAST_SHARES = (1.0, 0.5)
# of the plans priced on the way to the peak, the last few are nearest to the limits
LAST_PLANS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """`tolerance`: relative gap at which the search may stop; `beam`: states per stage of the searches for a plan;
    `most_work`: states formed in all searches together, about a second per 10 million."""

    tolerance: float = 1e-9
    beam: int = 512
    most_work: int = 20_000_000

    name: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True
    max_budgets: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance} is not accepted; it must be at least 0 and below 1")

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no plan meets all budgets together."""
        started = time.perf_counter()
        plan, bound, prices = self.plan(problem)
        return certify(
            problem,
            plan,
            lower_bound=bound,
            prices=prices,
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
            uniform_floor=True,
        )

    def plan(self, problem: Problem) -> tuple[Ints, float, Floats]:
        """((groups,) options of the best plan, lower bound, (budgets,) prices) alone, as a front needs them."""
        plan, bound = np.empty(problem.groups, np.int64), 0.0
        prices = np.zeros(len(problem.limits))
        names = [unit.name for unit in problem.units]
        for groups, part in parts(problem):
            try:
                dual = peak(part)
                chosen, low = self._search(part, dual)
            except OutOfReachError:  # which speaks of the part's share of the budgets
                raise out_of_reach(problem) from None
            plan[groups], bound = problem.offsets[groups] + chosen - part.offsets[:-1], bound + low
            for unit, price in zip(part.units, dual.prices, strict=True):
                prices[names.index(unit.name)] = price
        return plan, bound, prices

    def _search(self, problem: Problem, dual: Dual) -> tuple[Ints, float]:
        """(plan, proven lower bound)."""
        plans = [plan for start in dual.plans[-LAST_PLANS:] if (plan := fit(problem, start)) is not None]
        plan = min(plans, key=lambda plan: loss_of(problem, plan)) if plans else None
        base = dual.plans[-1] if plan is None else plan
        worst = float(np.maximum.reduceat(problem.loss, problem.offsets[:-1]).sum())
        ceiling = worst if plan is None else loss_of(problem, plan)
        bound, work = dual.bound, self.most_work
        ties = solve_ties(problem, dual, ceiling - bound)
        if ties is not None:
            # the core of a tied problem is as wide as its ties are many: a search seldom adds to this
            bound, work = ties.bound, work // TIED_WORK
            if ties.plan is not None and loss_of(problem, ties.plan) < ceiling:
                plan, ceiling = ties.plan, loss_of(problem, ties.plan)
        eps = max(FIRST_SHARE * max(ceiling - dual.bound, 0.0), bound - dual.bound)
        while plan is None or relative_gap(ceiling, bound) > self.tolerance:
            eps = min(eps, max(ceiling - dual.bound, 0.0))
            core = make_core(problem, dual, base, eps)
            found = core.search(dual.bound + eps, most_work=work, beam=self.beam)
            work -= found.work
            if found.plan is not None and (plan is None or loss_of(problem, found.plan) < ceiling):
                plan, ceiling = found.plan, loss_of(problem, found.plan)
            if found.complete and found.plan is not None:
                return found.plan, loss_of(problem, found.plan)
            if found.complete:
                bound = max(bound, min(dual.bound + eps, ceiling))
            if found.plan is not None or dual.bound + eps >= ceiling or work <= 0:
                break
            eps *= WIDENING
        for share in LAST_SHARES:
            eps = share * (ceiling - dual.bound)
            if (
                work <= 0
                or dual.bound + eps <= bound
                or (plan is not None and relative_gap(ceiling, bound) <= self.tolerance)
            ):
                break
            # the narrower search after a failed one keeps half of the work
            found = make_core(problem, dual, base, eps).search(dual.bound + eps, most_work=work // 2)
            work -= found.work
            if found.complete and found.plan is not None:
                return found.plan, loss_of(problem, found.plan)
            if found.complete:
                bound = dual.bound + eps
        if plan is None:
            raise out_of_reach(problem)
        return plan, min(bound, ceiling)


def loss_of(problem: Problem, plan: Ints) -> float:
    """Loss of a plan, correctly rounded."""
    return math.fsum(problem.loss[plan].tolist())
