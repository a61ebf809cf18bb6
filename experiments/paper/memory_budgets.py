"""The memory-constrained allocation at every rate: the proven optimum, the best uniform plan of the same palette within
the same bytes, and ideal codes, D = 4^-b, at those bytes (reverse water-filling)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from alloc.budgets import Budgets
from alloc.problem import Problem, build_problem
from alloc.solution import write_allocation
from alloc.solvers import Exact, Uniform
from alloc.solvers.water_filling import ideal_loss, water_fill
from experiments.paper.comparison import Comparison, Material, Outcome, compared, require
from experiments.paper.plan_source import plan_file


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudgets:
    """`bits` per weight; `published`: case -> {"bits": budget, quantity: number as printed}."""

    bits: Sequence[float]
    members: Sequence[str] | None
    published: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)

    needs_tables: ClassVar[bool] = True

    def run(self, name: str, material: Material) -> Outcome:
        """A row a budget; each optimum as plans/NAME/BITS/allocation.json."""
        tables = require(material)
        rows = []
        for bits in self.bits:
            problem = build_problem(tables, budgets=Budgets(bits_per_weight=bits), members=self.members)
            best = Exact().solve(problem)
            write_allocation(plan_file(material.out, name, f"{bits:g}-bits"), best, tables)
            uniform, quantizer = best_uniform(problem)
            rows.append(
                {
                    "bits": bits,
                    "objective": best.objective,
                    "lower_bound": best.lower_bound,
                    "gap": best.gap,
                    "uniform": uniform,
                    "uniform_quantizer": quantizer,
                    "ideal": ideal(problem),
                    "perplexity": material.perplexity(best.objective),
                    "milliseconds": 1e3 * best.runtime_s,
                }
            )
        frame = pd.DataFrame(rows)
        return Outcome(comparisons=self._compared(frame), table=frame)

    def _compared(self, frame: pd.DataFrame) -> list[Comparison]:
        found: list[Comparison] = []
        for case, published in self.published.items():
            printed = {quantity: value for quantity, value in published.items() if quantity != "bits"}
            at = frame[np.isclose(frame.bits.to_numpy(float), float(published["bits"]))]
            ours = {quantity: None if at.empty else at.iloc[0][quantity] for quantity in printed}
            found += compared(case, ours, printed, note="this budget was not asked for" if at.empty else "")
        return found


def best_uniform(problem: Problem) -> tuple[float, str]:
    """(objective, quantizer) of the best single quantizer within the budget; (NaN, "") where none fits."""
    try:
        plan = Uniform().solve(problem)
    except ValueError:
        return math.nan, ""
    return plan.objective, next(iter(plan.layers.values())).quantizer


def ideal(problem: Problem) -> float:
    """The loss of ideal codes of the problem's bytes, any rate from 0 up."""
    tables = problem.tables
    a, n = tables.sensitivity[tables.allocatable], tables.params[tables.allocatable].astype(float)
    return ideal_loss(a, water_fill(a, n, 8.0 * float(problem.limits[0]), np.zeros(len(a))))
