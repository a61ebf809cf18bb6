"""A plan made elsewhere, re-priced: its loss and costs from the tables, and how far it is from the bound."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from alloc.choice import Choice
from alloc.pricing import plan_costs, plan_loss
from alloc.problem import Problem
from alloc.solution import FEASIBLE, OPTIMAL, Solution, read_allocation, relative_gap
from alloc.solvers.certificate import number
from alloc.solvers.dual import peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """`layers`, or the allocation.json at `plan`; every layer of the problem needs a choice."""

    plan: str | None = None
    layers: Mapping[str, Choice] = field(default_factory=dict)
    tolerance: float = 1e-9

    name: ClassVar[str] = "fixed"
    exact: ClassVar[bool] = False
    max_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where the plan misses a layer, has one too many, or is over a budget."""
        started = time.perf_counter()
        layers = dict(read_allocation(self.plan).layers) if self.plan is not None else dict(self.layers)
        scope = problem.scope
        wanted = {scope.tables.layers[at] for members in problem.members for at in members}
        for name in sorted(wanted - layers.keys()):
            raise ValueError(f"the plan has no choice for layer {name}")
        layers = {name: choice for name, choice in layers.items() if name in wanted or choice.quantizer != "fp16"}
        for name in sorted(layers.keys() - wanted):
            raise ValueError(f"the plan quantizes {name}, which is not to be allocated")
        dual = peak(problem)
        costs = plan_costs(scope.tables, layers, batch=scope.batch, whole_model=scope.whole_model)
        for unit in problem.units:
            limit = scope.limits[unit.name]
            if unit.name not in costs:
                raise ValueError(f"the plan has no {unit.name}: it names no kernel")
            if costs[unit.name] > limit:
                spent, allowed = (
                    unit.describe(value, scope.params, scope.batch) for value in (costs[unit.name], limit)
                )
                raise ValueError(f"the plan costs {spent}, over the budget {allowed}")
        objective = plan_loss(scope.tables, layers)
        bound = min(dual.bound, objective)
        gap = relative_gap(objective, bound)
        return Solution(
            objective=objective,
            lower_bound=bound,
            gap=gap,
            status=OPTIMAL if gap <= self.tolerance else FEASIBLE,
            costs={name: number(name, value) for name, value in costs.items()},
            budgets={name: number(name, value) for name, value in scope.limits.items()},
            tolerance=self.tolerance,
            prices={
                unit.name: float(price) * 10.0**unit.decimals
                for unit, price in zip(problem.units, dual.prices, strict=True)
            },
            layers=layers,
            solver=self.name,
            runtime_s=time.perf_counter() - started,
        )
