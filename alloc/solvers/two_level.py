r"""The usual mixed precision by hand: groups ranked by sensitivity, the top share gets more bits.

Two quantizers, low and high; groups in falling order of sensitivity per weight take the high one as long as all budgets
hold. Every pair of the palette is tried and the best plan kept, O(quantizers^2 groups). A fusion group ranks by the sum
over its layers and takes its fastest partition."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem, lay_out
from alloc.solution import Solution
from alloc.solvers.certificate import certify
from alloc.solvers.dual import peak
from alloc.solvers.single import fastest, uniform_problems

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoLevel:
    """Two quantizers, the more sensitive groups get the better one."""

    tolerance: float = 1e-9

    name: ClassVar[str] = "two_level"
    exact: ClassVar[bool] = False
    max_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where not even one quantizer for all groups is within the budgets."""
        started = time.perf_counter()
        levels = uniform_problems(problem)
        plans = [fastest(level) for level in levels]
        loss = np.array([level.loss[plan] for level, plan in zip(levels, plans, strict=True)])  # (levels, groups)
        costs = np.array([level.costs[:, plan] for level, plan in zip(levels, plans, strict=True)])
        order = ranking(problem)
        best: tuple[float, int, int, int] | None = None
        for low in range(len(levels)):
            for high in range(len(levels)):
                share = largest_share(costs[low], costs[high], order, problem.limits)
                if share is not None:
                    total = float(loss[high][order[:share]].sum() + loss[low][order[share:]].sum())
                    if best is None or total < best[0]:
                        best = (total, low, high, share)
        if best is None:
            raise ValueError(
                "no single quantizer of the palette is within the budgets: two_level has nothing to start from"
            )
        _, low, high, share = best
        mixed = join(problem, levels[low], levels[high], set(order[:share].tolist()))
        dual = peak(problem)
        return certify(
            mixed,
            fastest(mixed),
            lower_bound=dual.bound,
            prices=dual.prices,
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
        )


def ranking(problem: Problem) -> Ints:
    """Groups in falling order of sensitivity per weight."""
    tables = problem.tables
    layers = [list(members) for members in problem.members]
    density = [float(tables.sensitivity[group].sum() / tables.params[group].sum()) for group in layers]
    return np.argsort(-np.array(density), kind="stable")


def largest_share(low: Ints, high: Ints, order: Ints, limits: Ints) -> int | None:
    """How many of the first groups can take `high` (budgets, groups) before a limit breaks; None where `low` does."""
    spent = low.sum(axis=1)
    if (spent > limits).any():
        return None
    totals = spent[:, None] + np.cumsum((high - low)[:, order], axis=1)
    over = (totals > limits[:, None]).any(axis=0)
    return int(np.argmax(over)) if over.any() else len(order)


def join(problem: Problem, low: Problem, high: Problem, top: set[int]) -> Problem:
    """The problem in which the groups of `top` have what `high` allows them, the others what `low` does."""
    allowed = low.scope.allowed.copy()
    for group in top:
        layers = list(problem.members[group])
        allowed[layers] = high.scope.allowed[layers]
    return lay_out(replace(problem.scope, allowed=allowed))
