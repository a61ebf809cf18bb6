"""What one global budget buys over one for each part of the model, at the same bits per weight.

Methods that give every layer, or every block, the same number of bits and choose only within it are the common case. A
budget a part is a hard limit on the bytes of the layers whose names match its pattern (alloc.budgets, `within`); the
optimum under all of them is again proven. Every layer stands in one part and parts round down, so that the whole plan
is within the global budget too; without it the parts are problems of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from alloc.budgets import Budgets
from alloc.tables import Tables
from experiments.studies.cell import Cell, Material, bits, low_rate, solved

BLOCK = re.compile(r"(?P<block>.*?\.\d+)\.(?P<rest>.*)")
# a pattern is a shell pattern on the whole name; a bracket in a name would be read as a set
SPECIAL = re.compile(r"([*?[])")


def block_pattern(layer: str) -> str:
    """All layers of the block of `layer`: `model.layers.3.mlp.up_proj` -> `model.layers.3.*`."""
    match = BLOCK.fullmatch(layer)
    return literal(layer) if match is None else literal(match["block"]) + ".*"


def type_pattern(layer: str) -> str:
    """All layers of its type: `model.layers.3.mlp.up_proj` -> `*.mlp.up_proj`."""
    match = BLOCK.fullmatch(layer)
    return literal(layer) if match is None else "*." + literal(match["rest"])


def literal(name: str) -> str:
    """A shell pattern that fits `name` alone."""
    return SPECIAL.sub(r"[\1]", name)


SCOPES: Mapping[str, Callable[[str], str]] = {
    "one for each type": type_pattern,
    "one for each block": block_pattern,
    "one for each layer": literal,
}
GLOBAL = "one global budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetScope:
    """At each rate: one budget for all layers, one a type, one a block, one a layer."""

    members: Sequence[str] | None = None
    bits: Sequence[float] = (2.5, 3.25, 4.25)
    baseline: str = GLOBAL

    name: ClassVar[str] = "budget_scope"

    def cells(self, material: Material) -> list[Cell]:
        """Every scope at every rate."""
        tables = material.tables
        members = low_rate(self.members, tables)
        found = []
        for value in self.bits:
            found.append(solved(GLOBAL, bits(value), tables, members=members))
            for variant, pattern in SCOPES.items():
                budget = Budgets(within=within(tables, pattern, value))
                found.append(solved(variant, (bits(value)[0], budget), tables, members=members))
        return found


def within(tables: Tables, pattern: Callable[[str], str], value: float) -> dict[str, float]:
    """The same rate for every part that has a layer to allocate."""
    named = (name for name, free in zip(tables.layers, tables.allocatable, strict=True) if free)
    return {pattern(name): value for name in named}
