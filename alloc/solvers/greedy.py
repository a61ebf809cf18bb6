r"""The baseline of most toolkits: from the cheapest plan, always the step that lowers the loss most per cost.

A step moves one group to another of its options; its price is the loss saved over the share of the budgets spent,
sum_b max(0, rise_b) / limit_b. Steps that no longer fit are dropped: what is left of a budget only shrinks. A heap
holds the best step of every group: O(steps (options of a group + log groups)). The bound is the Lagrangian one."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.solution import Solution
from alloc.solvers.certificate import certify, out_of_reach
from alloc.solvers.dual import peak
from alloc.solvers.rounding import fit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """Best loss reduction per cost, any number of budgets."""

    tolerance: float = 1e-9

    name: ClassVar[str] = "greedy"
    exact: ClassVar[bool] = False
    max_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no start within all budgets is found."""
        started = time.perf_counter()
        plan = cheapest_plan(problem)
        improve(problem, plan)
        dual = peak(problem)
        return certify(
            problem,
            plan,
            lower_bound=dual.bound,
            prices=dual.prices,
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
            uniform_floor=True,
        )


def cheapest_plan(problem: Problem) -> Ints:
    """(groups,) the option of least cost, each cost over its limit, repaired where one budget is still over.

    Raises ValueError where that fails."""
    share = (problem.costs / np.maximum(np.abs(problem.limits), 1)[:, None]).sum(axis=0)
    bounds = zip(problem.offsets[:-1], problem.offsets[1:], strict=True)
    plan = np.array([start + int(np.argmin(share[start:stop])) for start, stop in bounds], np.int64)
    if (problem.total(plan) <= problem.limits).all():
        return plan
    repaired = fit(problem, plan)
    if repaired is None:
        raise out_of_reach(problem)
    return repaired


def improve(problem: Problem, plan: Ints) -> None:
    """Take steps, best first, until none fits; `plan` (groups,) changes in place."""
    left = problem.limits - problem.total(plan)
    scale = 1.0 / np.maximum(np.abs(problem.limits), 1)
    heap = [step for group in range(problem.groups) if (step := _best_step(problem, plan, left, scale, group))]
    heapq.heapify(heap)
    while heap:
        _, group, option, origin = heapq.heappop(heap)
        if origin == plan[group]:
            rise = problem.costs[:, option] - problem.costs[:, origin]
            if (rise <= left).all():
                left -= rise
                plan[group] = option
        if step := _best_step(problem, plan, left, scale, group):
            heapq.heappush(heap, step)


def _best_step(
    problem: Problem, plan: Ints, left: Ints, scale: Floats, group: int
) -> tuple[float, int, int, int] | None:
    """(-loss saved per share spent, group, option, option before) of the best step that fits; None without one."""
    options = np.arange(problem.offsets[group], problem.offsets[group + 1])
    origin = int(plan[group])
    saved = problem.loss[origin] - problem.loss[options]
    rise = problem.costs[:, options] - problem.costs[:, [origin]]
    usable = (saved > 0) & (rise <= left[:, None]).all(axis=0)
    if not usable.any():
        return None
    spent = (np.maximum(rise, 0) * scale[:, None]).sum(axis=0) + 1e-30
    best = int(np.argmax(np.where(usable, saved / spent, -np.inf)))
    return -float(saved[best] / spent[best]), group, int(options[best]), origin
