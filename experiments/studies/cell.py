"""A cell of a study: one variant under one budget, with its plan, or with the reason why there is none.

A plan is measured as its `Encoding` says, so that variants may differ in what the tables cannot tell: the rotation, the
states of a trellis, error feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alloc.budgets import Budgets
from alloc.problem import build_problem
from alloc.solution import Solution
from alloc.solvers import Exact, Solver
from alloc.tables import Tables
from experiments.stages import Stages
from experiments.workspace import Workspace
from quantizers.feedback import Feedback
from quantizers.feedback.plain import Plain

MEMORY_ONLY = "the tables folder has no latency.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a plan becomes weights; None: as the run is configured."""

    rotated: bool = True
    rotation_seed: int | None = None
    state_bits: int | None = None
    feedback: Feedback = field(default_factory=Plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`predicted_loss` and `lower_bound` in nats/token, NaN where nothing predicts them; `solution` is None for a law
    that no plan follows and for a cell with a `reason`. `extra`: further columns of the table."""

    variant: str
    budget: str
    predicted_loss: float = math.nan
    lower_bound: float = math.nan
    solution: Solution | None = None
    encoding: Encoding = field(default_factory=Encoding)
    reason: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What studies work on. `folder`: the tables folder; `stages`: what is done once and kept; `run`: the model, None
    where there are tables alone; `hessians`: second moments for error feedback, if any."""

    tables: Tables
    folder: Path
    stages: Stages
    run: Workspace | None = None
    hessians: Path | None = None


def bits(value: float) -> tuple[str, Budgets]:
    """(label, budget) of so many bits per weight."""
    return f"{value:g} bits", Budgets(bits_per_weight=value)


def speed(value: float) -> tuple[str, Budgets]:
    """(label, budget) of so many tokens per second."""
    return f"{value:g} tokens/s", Budgets(tokens_per_second=value)


def solved(
    variant: str,
    budget: tuple[str, Budgets],
    tables: Tables,
    *,
    solver: Solver | None = None,
    encoding: Encoding | None = None,
    predicts: bool = True,
    **options: Any,
) -> Cell:
    """The cell of a solver's plan (`Exact` by default); `options` are those of build_problem. What the tables do not
    have, or a budget that cannot be met, is the cell's reason. `predicts=False`: the tables cannot tell the loss."""
    label, limit = budget
    try:
        solution = (solver or Exact()).solve(build_problem(tables, budgets=limit, **options))
    except ValueError as error:
        return Cell(variant=variant, budget=label, reason=str(error).split(";")[0])
    return Cell(
        variant=variant,
        budget=label,
        predicted_loss=solution.objective if predicts else math.nan,
        lower_bound=solution.lower_bound if predicts else math.nan,
        solution=solution,
        encoding=encoding or Encoding(),
    )


def skipped(variant: str, budgets: Sequence[tuple[str, Budgets]], reason: str) -> list[Cell]:
    """One cell a budget with the same reason."""
    return [Cell(variant=variant, budget=label, reason=reason) for label, _ in budgets]


def low_rate(members: Sequence[str] | None, tables: Tables) -> list[str]:
    """`members`, or every quantizer of the tables but fp16: the names that a study chooses from."""
    return list(members) if members is not None else [name for name in tables.quantizers if name != "fp16"]
