r"""Lagrangian relaxation of the multiple-choice knapsack (Shoham and Gersho, 1988, doi:10.1109/29.90373).

For prices p >= 0 every group decides alone, x_g = argmin_o loss[o] + p . cost[o]; at the best prices the dual is the
bound of the linear relaxation, and the plans priced on the way, brought within the limits, are the answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alloc.problem import Problem
from alloc.solution import Solution
from alloc.solvers.certificate import certify, out_of_reach
from alloc.solvers.dual import peak
from alloc.solvers.rounding import fit

# Of the plans priced on the way, the last few are nearest to the limits
LAST_PLANS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lagrangian:
    """Fast, with a bound; `tolerance` is the relative gap that counts as optimal."""

    tolerance: float = 1e-9

    name: ClassVar[str] = "lagrangian"
    exact: ClassVar[bool] = False
    max_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no plan within the limits is found."""
        started = time.perf_counter()
        dual = peak(problem)
        plans = [plan for start in dual.plans[-LAST_PLANS:] if (plan := fit(problem, start)) is not None]
        if not plans:
            raise out_of_reach(problem)
        best = min(plans, key=lambda plan: float(problem.loss[plan].sum()))
        return certify(
            problem,
            np.asarray(best),
            lower_bound=dual.bound,
            prices=dual.prices,
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
            uniform_floor=True,
        )
