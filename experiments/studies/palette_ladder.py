r"""The palette ladder: what a richer set of quantizers buys at equal bytes, up to codes that no one can build.

A rung is a palette, solved to proven optimality. Above the rungs stand two laws of ideal codes, D = 4^-b (Cover and
Thomas, Elements of Information Theory, 10.3): every layer at the budget's rate, sum_l a_l 4^-b, and every layer at its
own (reverse water-filling, alloc.solvers.water_filling)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alloc.solvers.water_filling import ideal_loss, water_fill
from alloc.tables import Tables
from experiments.studies.cell import Cell, Material, bits, solved

IDEAL_UNIFORM = "ideal, one rate"
IDEAL = "ideal, water-filling"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaletteLadder:
    """`rungs`: name -> shell patterns of its quantizers, poorest first."""

    rungs: Mapping[str, Sequence[str]]
    baseline: str
    bits: Sequence[float] = (2.5, 3.25, 4.25)

    name: ClassVar[str] = "palette_ladder"

    def cells(self, material: Material) -> list[Cell]:
        """Every rung and both laws at every rate."""
        tables = material.tables
        found = []
        for value in self.bits:
            found += [solved(rung, bits(value), tables, members=list(of)) for rung, of in self.rungs.items()]
            found += ideal(tables, value)
        return found


def ideal(tables: Tables, value: float) -> list[Cell]:
    """Both laws at `value` bits per weight of the layers that have a sensitivity."""
    a = tables.sensitivity[tables.allocatable]
    n = tables.params[tables.allocatable].astype(float)
    label, _ = bits(value)
    rates = water_fill(a, n, value * float(n.sum()), np.zeros(len(a)))
    return [
        Cell(variant=IDEAL_UNIFORM, budget=label, predicted_loss=ideal_loss(a, np.full(len(a), value))),
        Cell(variant=IDEAL, budget=label, predicted_loss=ideal_loss(a, rates)),
    ]
