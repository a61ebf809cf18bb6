r"""What fractional bits are worth: ideal codes, D = 4^-b, whose rates lie on a grid, and real palettes beside them.

With any rate b >= 0 the optimum is reverse water-filling (alloc.solvers.water_filling); with rates of `step` bits only
it is a multiple-choice knapsack, solved exactly. The step costs at most the loss of rounding every layer's rate within
the budget: with steps s the best uniform dither of the rates multiplies D by about 1 + (s ln 4)^2 / 24. All layers at
one rate is what a single ideal code gives. `palettes` are rows of the tables, solved exactly at the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pandas as pd

from alloc.budgets import Budgets
from alloc.problem import build_problem
from alloc.solvers import Exact
from alloc.solvers.water_filling import ideal_loss, water_fill
from alloc.tables import Tables
from experiments.paper.comparison import Comparison, Material, Outcome, require

WATER_FILLING = "ideal, any rate"
ONE_RATE = "ideal, one rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Theory:
    """`steps` in bits, as fractions ("1/4"); rates of a grid run from `least` to `most`; `palettes`: name -> shell
    patterns; `published`: law or palette -> number as printed, at `published_bits`; `relative`: what agrees with it."""

    bits: Sequence[float]
    steps: Sequence[str]
    palettes: Mapping[str, Sequence[str]]
    least: float = 0.0
    most: float = 10.0
    published: Mapping[str, str | float] = field(default_factory=dict)
    published_bits: float = 3.25
    relative: float = 0.0

    needs_tables: ClassVar[bool] = True

    def run(self, name: str, material: Material) -> Outcome:
        """A row a code and rate."""
        tables = require(material)
        rows = [
            {"code": code, "kind": kind, "bits": bits, "objective": value, "reason": reason}
            for bits in self.bits
            for code, kind, value, reason in self._losses(tables, bits)
        ]
        frame = pd.DataFrame(rows)
        floor = frame[frame.code == WATER_FILLING].set_index("bits").objective
        return Outcome(
            comparisons=self._compared(frame), table=frame.assign(over_ideal=frame.objective / frame.bits.map(floor))
        )

    def _losses(self, tables: Tables, bits: float) -> list[tuple[str, str, float, str]]:
        """(code, kind, loss, why there is none) of every law, grid and palette."""
        a, n = tables.sensitivity[tables.allocatable], tables.params[tables.allocatable].astype(float)
        rates = water_fill(a, n, bits * float(n.sum()), np.zeros(len(a)))
        found = [
            (WATER_FILLING, "ideal", ideal_loss(a, rates), ""),
            (ONE_RATE, "ideal", ideal_loss(a, np.full(len(a), bits)), ""),
        ]
        for step in self.steps:
            grid = ideal_tables(tables, Fraction(step), self.least, self.most)
            found.append((f"ideal, steps of {step}", "grid", *solved(grid, bits, None)))
        for name, members in self.palettes.items():
            found.append((name, "palette", *solved(tables, bits, members)))
        return found

    def _compared(self, frame: pd.DataFrame) -> list[Comparison]:
        at = frame[np.isclose(frame.bits.to_numpy(float), self.published_bits)].set_index("code")
        if unknown := sorted(set(self.published) - set(frame.code)):
            raise ValueError(f"published {unknown[0]!r} is not among {', '.join(at.index)}")
        return [
            Comparison(
                case=code,
                quantity="objective",
                ours=None if code not in at.index or np.isnan(at.objective[code]) else float(at.objective[code]),
                published=value,
                relative=self.relative,
                note=str(at.reason[code]) if code in at.index else "this budget was not asked for",
            )
            for code, value in self.published.items()
        ]


def solved(tables: Tables, bits: float, members: Sequence[str] | None) -> tuple[float, str]:
    """(objective of the proven optimum, ""), or (NaN, why there is none)."""
    try:
        return Exact().solve(
            build_problem(tables, budgets=Budgets(bits_per_weight=bits), members=members)
        ).objective, ""
    except ValueError as error:
        return float("nan"), str(error)


def ideal_tables(tables: Tables, step: Fraction, least: float, most: float) -> Tables:
    """The same layers with ideal codes at the multiples of `step` from `least` to `most`, no codebooks, no latency.

    ValueError for a step that is not above 0 or a grid without a rate."""
    if step <= 0:
        raise ValueError(f"step={step} bits is not accepted; it must be above 0")
    first, last = -(-Fraction(least) // step), Fraction(most) // step
    rates = tuple(step * at for at in range(int(first), int(last) + 1))
    if not rates:
        raise ValueError(f"no multiple of {step} lies between {least} and {most} bits")
    distortion = np.array([4.0 ** -float(rate) for rate in rates])
    storage = np.array([[-(-int(n) * rate // 8) for rate in rates] for n in tables.params], np.int64)
    return replace(
        tables,
        quantizers=tuple(f"ideal-{rate}" for rate in rates),
        bits_per_weight=rates,
        distortion=distortion,
        storage_bytes=storage,
        loss=tables.sensitivity[:, None] * distortion[None, :],
        costs={},
        latency=None,
    )
