"""Solvers: each is its settings, one algorithm a file; `solver.solve(problem) -> Solution` with a lower bound.

A class declares `exact` (it proves optimality, given time) and `max_budgets` (None: any number)."""

from __future__ import annotations

from typing import ClassVar, Protocol

from alloc.problem import Problem
from alloc.solution import Solution
from alloc.solvers.convex import Convex
from alloc.solvers.evolutionary import Evolutionary
from alloc.solvers.exact import Exact
from alloc.solvers.fixed import Fixed
from alloc.solvers.greedy import Greedy
from alloc.solvers.lagrangian import Lagrangian
from alloc.solvers.milp import Cbc, Highs, Milp
from alloc.solvers.two_level import TwoLevel
from alloc.solvers.uniform import Uniform
from alloc.solvers.water_filling import WaterFilling

__all__ = [
    "SOLVERS",
    "Cbc",
    "Convex",
    "Evolutionary",
    "Exact",
    "Fixed",
    "Greedy",
    "Highs",
    "Lagrangian",
    "Milp",
    "Solver",
    "TwoLevel",
    "Uniform",
    "WaterFilling",
]


class Solver(Protocol):
    """What the experiments call."""

    name: ClassVar[str]
    exact: ClassVar[bool]
    max_budgets: ClassVar[int | None]

    def solve(self, problem: Problem) -> Solution:
        """A plan within every budget, with its certificate."""


SOLVERS: tuple[type[Solver], ...] = (
    Exact, Milp, Lagrangian, Convex, WaterFilling, Greedy, Evolutionary, TwoLevel, Uniform, Fixed,
)  # fmt: skip
