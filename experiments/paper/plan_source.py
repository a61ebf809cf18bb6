"""Where a plan comes from: one quantizer for every layer, a published file, or the optimum under budgets.

The first two are re-priced by `Fixed` under budgets equal to their own costs, so that the lower bound of the result
says what any plan of the tables could reach at those costs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from alloc.budgets import Budgets
from alloc.choice import Choice
from alloc.pricing import plan_costs
from alloc.problem import build_problem
from alloc.solution import Solution, read_allocation
from alloc.solvers import Exact, Fixed, Uniform
from alloc.tables import Tables

UNLIMITED_US = 2.0**40  # a latency budget that limits nothing: kernels and fusion are chosen by time alone
STEPS_PER_US = 10**6  # of a plan's own latency as a budget: rounded up, far below what was measured


class PlanSource(Protocol):
    """A plan to be made from tables."""

    def plan(self, tables: Tables) -> Solution:
        """The plan, priced. ValueError or FileNotFoundError where the tables or the file lack something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneQuantizer:
    """Every layer stored by `quantizer`, at the fastest kernels (and fused partners) where there is latency.csv."""

    quantizer: str
    fusion: bool = False
    kernels: Sequence[str] | None = None

    def plan(self, tables: Tables) -> Solution:
        """ValueError for a quantizer or kernel that the tables have not."""
        latency = UNLIMITED_US if tables.latency is not None else None
        problem = build_problem(
            tables,
            budgets=Budgets(uniform=self.quantizer, latency_us=latency),
            members=[self.quantizer],
            fusion=self.fusion,
            kernels=self.kernels,
        )
        return repriced(tables, Uniform().solve(problem).layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPlan:
    """The allocation.json at `path`."""

    path: str

    def plan(self, tables: Tables) -> Solution:
        """FileNotFoundError where it is absent; ValueError where the tables cannot price it."""
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"{self.path}: no such plan")
        return repriced(tables, read_allocation(self.path).layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The proven optimum; `budget`: bits_per_weight, memory_bytes, latency_us or tokens_per_second, any of them."""

    budget: Mapping[str, float]
    members: Sequence[str] | None = None
    kernels: Sequence[str] | None = None
    fusion: bool = True

    def plan(self, tables: Tables) -> Solution:
        """ValueError where the budget cannot be met."""
        known = {name: value for name, value in self.budget.items() if name in Budgets.__dataclass_fields__}
        if unknown := sorted(set(self.budget) - set(known)):
            raise ValueError(f"unknown budget {unknown[0]!r}")
        problem = build_problem(
            tables,
            budgets=Budgets(**known),  # type: ignore[arg-type]
            members=self.members,
            kernels=self.kernels,
            fusion=self.fusion,
        )
        return Exact().solve(problem)


def repriced(tables: Tables, layers: Mapping[str, Choice]) -> Solution:
    """A plan under budgets equal to its own costs."""
    costs = plan_costs(tables, layers)
    latency = costs.get("latency_us")
    own = Budgets(memory_bytes=int(costs["memory_bytes"]), latency_us=None if latency is None else at_least(latency))
    return Fixed(layers=layers).solve(build_problem(tables, budgets=own))


def at_least(latency: Fraction) -> float:
    """Microseconds, rounded up to a step."""
    return math.ceil(latency * STEPS_PER_US) / STEPS_PER_US


def bits_per_weight(tables: Tables, solution: Solution) -> float:
    """8 bytes / weights of the layers that the plan allocates."""
    params = dict(zip(tables.layers, tables.params.tolist(), strict=True))
    return 8.0 * solution.costs["memory_bytes"] / sum(params[name] for name in solution.layers)


def plan_file(out: Path, experiment: str, case: str) -> Path:
    """Where the plan of a case is written: `out`/plans/EXPERIMENT/CASE/allocation.json, blanks and marks as dashes."""
    return out / "plans" / experiment / re.sub(r"[^\w.]+", "-", case) / "allocation.json"
