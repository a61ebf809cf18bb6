"""The latency-constrained allocation at every speed, with fusion and kinds of kernels switched on and off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pandas as pd

from alloc.budgets import Budgets
from alloc.front import with_limit
from alloc.problem import Problem, build_problem
from alloc.solution import Solution, write_allocation
from alloc.solvers import Exact
from alloc.solvers.single import fastest, uniform_problems
from alloc.tables import Tables
from experiments.paper.comparison import Comparison, Material, Outcome, compared, require
from experiments.paper.plan_source import UNLIMITED_US, bits_per_weight, plan_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What plans may use; `kernels`: shell patterns, None for all."""

    fusion: bool = True
    kernels: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyBudgets:
    """`published`: case -> {"variant": its name, "tokens_per_second": budget, quantity: number as printed}."""

    tokens_per_second: Sequence[float]
    variants: Mapping[str, Variant]
    published: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)

    needs_tables: ClassVar[bool] = True

    def run(self, name: str, material: Material) -> Outcome:
        """A row a variant and speed; each optimum as plans/NAME/VARIANT-SPEED/allocation.json."""
        tables = require(material)
        rows = []
        for label, variant in self.variants.items():
            # the options do not depend on the limit: laid out once a variant
            problem = build_problem(
                tables, budgets=Budgets(latency_us=UNLIMITED_US), kernels=variant.kernels, fusion=variant.fusion
            )
            uniform = uniform_plans(problem)
            for speed in self.tokens_per_second:
                row: dict[str, object] = {"variant": label, "speed": speed, "reason": ""}
                at = with_limit(problem, problem.units[0].round_down(Fraction(10**6) / Fraction(str(speed))))
                if (smallest := least(at)) > at.limits[0]:
                    fastest_speed = 1e6 / float(at.units[0].natural(smallest))
                    row["reason"] = f"out of reach: at most {fastest_speed:.1f} tokens/s"
                else:
                    best = Exact().solve(at)
                    write_allocation(plan_file(material.out, name, f"{label}-{speed:g}"), best, tables)
                    row |= {**described(best, tables), **best_within(uniform, int(at.limits[0]))}
                    row["perplexity"] = material.perplexity(best.objective)
                rows.append(row)
        frame = pd.DataFrame(rows)
        return Outcome(comparisons=self._compared(frame), table=frame)

    def _compared(self, frame: pd.DataFrame) -> list[Comparison]:
        found: list[Comparison] = []
        for case, published in self.published.items():
            printed = {key: value for key, value in published.items() if key not in ("variant", "tokens_per_second")}
            at = frame[(frame.variant == published["variant"]) & (frame.speed == float(published["tokens_per_second"]))]
            solved = len(at) and not at.iloc[0].reason
            ours = {quantity: at.iloc[0][quantity] if solved else None for quantity in printed}
            note = "" if solved else ("this budget was not asked for" if at.empty else str(at.iloc[0].reason))
            found += compared(case, ours, printed, note=note)
        return found


def least(problem: Problem) -> int:
    """The smallest cost of any plan, in units of the problem's one budget."""
    return int(np.minimum.reduceat(problem.costs[0], problem.offsets[:-1]).sum())


def described(best: Solution, tables: Tables) -> dict[str, object]:
    """Columns of the table that the optimum fills."""
    blocks = {frozenset((name, *choice.fused_with)) for name, choice in best.layers.items()}
    return {
        "objective": best.objective,
        "lower_bound": best.lower_bound,
        "gap": best.gap,
        "latency_us": best.costs["latency_us"],
        "bits_per_weight": bits_per_weight(tables, best),
        "fused_blocks": sum(len(block) > 1 for block in blocks),
        "milliseconds": 1e3 * best.runtime_s,
    }


def uniform_plans(problem: Problem) -> list[tuple[float, int, str]]:
    """(objective, cost in units, quantizer) of every plan of one quantizer at its fastest, the best first."""
    found = []
    for part in uniform_problems(problem):
        plan = fastest(part)
        quantizer = next(iter(part.decode(plan).values())).quantizer
        found.append((float(part.loss[plan].sum()), int(part.total(plan)[0]), quantizer))
    return sorted(found)


def best_within(uniform: Sequence[tuple[float, int, str]], limit: int) -> dict[str, object]:
    """The best uniform plan within the limit; nothing where none fits."""
    for objective, cost, quantizer in uniform:
        if cost <= limit:
            return {"uniform": objective, "uniform_quantizer": quantizer}
    return {}
