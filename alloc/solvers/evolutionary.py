r"""Evolutionary search by level switches (EvoPress, Sieberling et al., 2024, arXiv 2410.14649).

An offspring moves a few random groups to a costlier option and as many to a cheaper one; offspring over a budget are
dropped. The best of parent and offspring goes on. The
fitness is any callable of a plan, so that a measured loss can be used; the default is the predicted loss. Cost:
generations x offspring evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.choice import Choice
from alloc.problem import Problem
from alloc.solution import Solution
from alloc.solvers.certificate import certify
from alloc.solvers.dual import peak
from alloc.solvers.greedy import cheapest_plan, improve

Ints = NDArray[np.int64]
Fitness = Callable[[Mapping[str, Choice]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolutionary:
    """`fitness`: plan -> loss, lower is better, None for the predicted loss; `switches`: the most groups that an
    offspring moves up, and down; `greedy_start`: from the greedy plan, else from the cheapest one."""

    generations: int = 200
    offspring: int = 32
    switches: int = 3
    seed: int = 0
    greedy_start: bool = True
    fitness: Fitness | None = None
    tolerance: float = 1e-9

    name: ClassVar[str] = "evolutionary"
    exact: ClassVar[bool] = False
    max_budgets: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if min(self.generations, self.offspring, self.switches) < 1:
            raise ValueError(
                f"evolutionary needs generations, offspring and switches of at least 1, "
                f"not {self.generations}, {self.offspring}, {self.switches}"
            )

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no start within all budgets is found."""
        started = time.perf_counter()
        rng = np.random.default_rng(self.seed)
        parent = cheapest_plan(problem)
        if self.greedy_start:
            improve(problem, parent)
        value = self._value(problem, parent)
        for _ in range(self.generations):
            drawn = [self._mutated(problem, parent, rng) for _ in range(self.offspring)]
            within = [plan for plan in drawn if (problem.total(plan) <= problem.limits).all()]
            for plan, found in [(plan, self._value(problem, plan)) for plan in within]:
                if found < value:
                    parent, value = plan, found
        dual = peak(problem)
        return certify(
            problem,
            parent,
            lower_bound=dual.bound,
            prices=dual.prices,
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
        )

    def _value(self, problem: Problem, plan: Ints) -> float:
        return float(problem.loss[plan].sum()) if self.fitness is None else self.fitness(problem.decode(plan))

    def _mutated(self, problem: Problem, parent: Ints, rng: np.random.Generator) -> Ints:
        """Options of a group are in the order of their costs: one step up or down is a level switch."""
        plan = parent.copy()
        for step in (1, -1):
            for group in rng.integers(problem.groups, size=int(rng.integers(1, self.switches + 1))):
                first, last = problem.offsets[group], problem.offsets[group + 1] - 1
                plan[group] = min(max(plan[group] + step, first), last)
        return plan
