"""One slope for the published perplexities of plans on one instance (perplexity_law)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from alloc.tables import Tables
from experiments.paper.comparison import Comparison, Material, Outcome, require
from experiments.paper.perplexity_law import PerplexityLaw, fit_law
from experiments.paper.plan_source import PlanSource


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPerplexity:
    """A plan and the perplexity that was published for it, as printed."""

    source: PlanSource
    perplexity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityFit:
    """`base`: perplexity of the 16-bit model; `plans`: name -> plan with its published perplexity."""

    base: float
    plans: Mapping[str, PublishedPerplexity]

    needs_tables: ClassVar[bool] = True

    def losses(self, tables: Tables) -> tuple[dict[str, float], dict[str, str]]:
        """name -> objective of every plan that these tables have, and name -> why of the others."""
        found, missing = {}, {}
        for name, plan in self.plans.items():
            try:
                found[name] = plan.source.plan(tables).objective
            except (ValueError, FileNotFoundError) as error:
                missing[name] = str(error)
        return found, missing

    def fitted(self, losses: Mapping[str, float]) -> PerplexityLaw | None:
        """The law of the plans in `losses`; None where there are none."""
        points = [(loss, float(self.plans[name].perplexity)) for name, loss in losses.items()]
        return fit_law(self.base, points) if points else None

    def run(self, name: str, material: Material) -> Outcome:
        """Every perplexity by the law, and its slope."""
        losses, missing = self.losses(require(material))
        law = self.fitted(losses)
        rows, found = [], []
        for plan, published in self.plans.items():
            value = None if law is None or plan in missing else law.perplexity(losses[plan])
            found.append(
                Comparison(
                    case=plan,
                    quantity="perplexity",
                    ours=value,
                    published=published.perplexity,
                    note=missing.get(plan, ""),
                )
            )
            if value is not None:
                printed = float(published.perplexity)
                rows.append(
                    {
                        "plan": plan,
                        "objective": losses[plan],
                        "published": printed,
                        "law": value,
                        "error": value / printed - 1,
                    }
                )
        if law is not None:
            found.append(Comparison(case="all", quantity="perplexity_slope", ours=law.slope))
        return Outcome(comparisons=found, table=pd.DataFrame(rows))
