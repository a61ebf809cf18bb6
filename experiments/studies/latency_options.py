"""What fusing layers and having more kernels buy under a latency budget: the same tables with and without.

Fusion is only more options (a partition of each fusion group into blocks that share one product), and so is a kernel;
the optimum can only fall. Every plan is proven optimal among its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alloc.solvers import Exact, Solver, Uniform
from experiments.studies.cell import MEMORY_ONLY, Cell, Material, skipped, solved, speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """At each speed: the best uniform and the best mixed plan, each layer alone and fused where that helps."""

    tokens_per_second: Sequence[float] = (140, 160, 180, 200, 220, 240, 260)
    kernels: Sequence[str] | None = None
    members: Sequence[str] | None = None
    baseline: str = "mixed, no fusion"

    name: ClassVar[str] = "fusion"

    def cells(self, material: Material) -> list[Cell]:
        """Four variants a speed; skipped without latency.csv."""
        budgets = [speed(value) for value in self.tokens_per_second]
        variants: list[tuple[str, Solver, bool]] = [
            ("uniform, no fusion", Uniform(), False), ("uniform, fusion", Uniform(), True),
            ("mixed, no fusion", Exact(), False), ("mixed, fusion", Exact(), True),
        ]  # fmt: skip
        if material.tables.latency is None:
            return [cell for variant, _, _ in variants for cell in skipped(variant, budgets, MEMORY_ONLY)]
        options: dict[str, Any] = {"kernels": patterns(self.kernels), "members": patterns(self.members)}
        return [
            solved(variant, budget, material.tables, solver=solver, fusion=fusion, **options)
            for budget in budgets
            for variant, solver, fusion in variants
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """At each speed: every set of kernels in `sets` (name -> shell patterns), with fusion."""

    sets: Mapping[str, Sequence[str]]
    baseline: str
    tokens_per_second: Sequence[float] = (140, 160, 180, 200, 220, 240, 260)
    members: Sequence[str] | None = None

    name: ClassVar[str] = "kernels"

    def cells(self, material: Material) -> list[Cell]:
        """One variant a set; skipped without latency.csv."""
        budgets = [speed(value) for value in self.tokens_per_second]
        if material.tables.latency is None:
            return [cell for variant in self.sets for cell in skipped(variant, budgets, MEMORY_ONLY)]
        return [
            solved(variant, budget, material.tables, kernels=list(kernels), members=patterns(self.members))
            for budget in budgets
            for variant, kernels in self.sets.items()
        ]


def patterns(values: Sequence[str] | None) -> list[str] | None:
    """A list that build_problem takes."""
    return None if values is None else list(values)
