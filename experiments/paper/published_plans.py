"""Plans of the paper's Figure 1, re-priced: objective, rate, time of a token, and the perplexity by the fitted law.

`same_latency` also gives the proven optimum within the plan's own microseconds: what the plan left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from alloc.solution import Solution, write_allocation
from alloc.tables import Tables
from experiments.paper.comparison import Comparison, Material, Outcome, compared, require
from experiments.paper.plan_source import Optimum, PlanSource, bits_per_weight, plan_file


@dataclass(frozen=True, slots=True, kw_only=True)
class SameLatency:
    """What the optimum at a plan's latency may use."""

    fusion: bool = True
    kernels: Sequence[str] | None = None

    def optimum(self, tables: Tables, latency_us: float) -> Solution:
        """The optimum within `latency_us`."""
        return Optimum(budget={"latency_us": latency_us}, fusion=self.fusion, kernels=self.kernels).plan(tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPlan:
    """`published`: quantity -> number as printed; `against`: the plan whose time the speed-up is over."""

    source: PlanSource
    published: Mapping[str, str | float] = field(default_factory=dict)
    against: PlanSource | None = None
    same_latency: SameLatency | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPlans:
    """name -> plan."""

    plans: Mapping[str, PublishedPlan]

    needs_tables: ClassVar[bool] = True

    def run(self, name: str, material: Material) -> Outcome:
        """A row a quantity of every plan; each plan as plans/NAME/PLAN/allocation.json."""
        tables = require(material)
        found: list[Comparison] = []
        for label, plan in self.plans.items():
            solution = plan.source.plan(tables)
            write_allocation(plan_file(material.out, name, label), solution, tables)
            found += compared(label, self._numbers(plan, solution, material), plan.published)
            latency = solution.costs.get("latency_us")
            if plan.same_latency is not None and latency is not None:
                best = plan.same_latency.optimum(tables, solution.budgets["latency_us"])
                write_allocation(plan_file(material.out, name, f"{label}-optimum"), best, tables)
                found.append(
                    Comparison(
                        case=f"{label}: optimum within its time",
                        quantity="objective",
                        ours=best.objective,
                        published=plan.published.get("objective"),
                        note=f"proven to a gap of {best.gap:.1g}",
                    )
                )
        return Outcome(comparisons=found)

    def _numbers(self, plan: PublishedPlan, solution: Solution, material: Material) -> dict[str, float | None]:
        tables = require(material)
        latency = solution.costs.get("latency_us")
        over = None
        if plan.against is not None and latency is not None:
            over = plan.against.plan(tables).costs["latency_us"] / latency
        return {
            "objective": solution.objective,
            "bits_per_weight": bits_per_weight(tables, solution),
            "latency_us": latency,
            "tokens_per_second": None if latency is None else 1e6 / latency,
            "speed_up": over,
            "perplexity": material.perplexity(solution.objective),
        }
