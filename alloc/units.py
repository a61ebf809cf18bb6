"""Units of a cost: exact decimals as int64, so that sums and comparisons in a solver are exact.

A cost c of d decimals is the integer ceil(c 10^d); a limit is floor((limit - fixed) 10^d). d is the number of digits of
the table, less where the sum over all layers would pass 2^61."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alloc.latency import LatencyTable, block_members
from alloc.scope import Scope
from alloc.tables import Tables

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
LARGEST = 2**61  # leaves two bits for sums and differences of sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """`fixed`: what every plan spends besides its options, in bytes, microseconds or the cost's own unit."""

    name: str
    decimals: int
    fixed: Fraction
    params: int | None = None  # the weights that it is about, where not all allocated ones

    def round_up(self, value: Decimal) -> int:
        """A cost in units, never less than the cost."""
        with localcontext() as context:
            context.prec = 60
            return int(value.scaleb(self.decimals).to_integral_value(ROUND_CEILING))

    def round_down(self, limit: Fraction) -> int:
        """What a limit leaves for the options, in units; clipped where it limits nothing."""
        return max(-LARGEST, min(LARGEST, math.floor((limit - self.fixed) * 10**self.decimals)))

    def natural(self, units: int) -> Fraction:
        """The whole cost of a plan whose options cost `units`."""
        return Fraction(units, 10**self.decimals) + self.fixed

    def describe(self, value: Fraction, params: int, batch: int) -> str:
        """`memory_bytes=... (3.25 bits per weight)`, for messages; `params` weights are allocated."""
        if self.name.startswith("memory_bytes"):
            bits = (value - self.fixed) * 8 / (self.params or params)
            return f"{self.name}={math.floor(value)} (bits_per_weight={float(bits):.6g})"
        if self.name == "latency_us":
            speed = f" (tokens_per_second={float(batch * 1_000_000 / value):.6g})" if value > 0 else ""
            return f"latency_us={float(value):.10g}{speed}"
        return f"{self.name}={float(value):.10g}"


def latency_table(tables: Tables) -> LatencyTable:
    """The table, which a latency budget needs: ValueError without it."""
    if tables.latency is None:
        raise ValueError("a latency budget needs latency.csv in the tables folder")
    return tables.latency


def latency_units(scope: Scope) -> Units:
    """Units of latency_us. Raises ValueError without a table, on an unknown batch or on rows that need a shape."""
    tables, batch = scope.tables, scope.batch
    table = latency_table(tables)
    if batch not in table.batches:
        known = ", ".join(map(str, table.batches))
        raise ValueError(f"{table.path}: no rows for batch {batch}; it has batches {known}")
    _check_shapes(tables, table)
    slowest: dict[str, Decimal] = {}
    digits = 0
    for (members, size), rows in table.rows.items():
        for row in rows if size == batch else ():
            exponent = row.latency_us.as_tuple().exponent
            digits = max(digits, -int(exponent))
            for part in members:
                slowest[part] = max(slowest.get(part, Decimal(0)), row.latency_us)
    # every plan's sum is at most that of the slowest row that each layer takes part in
    largest = sum(
        slowest.get(tables.layers[at].rsplit(".", 1)[-1], Decimal(0)) for at in np.flatnonzero(scope.allocated)
    )
    return Units(
        name="latency_us",
        decimals=_fitting(digits, Fraction(largest)),
        fixed=latency_offset(tables, scope.allocated, batch, scope.kernels),
    )


def latency_offset(tables: Tables, allocated: Mask, batch: int, kernels: tuple[str, ...] | None = None) -> Fraction:
    """Microseconds outside the plan: the row `constant`, and the fp16 rows of layers that are not allocated, of another
    kernel where `kernels` has none."""
    table = latency_table(tables)
    total = Fraction(table.constant.get(batch, Decimal(0)))
    for layer in np.flatnonzero(~allocated):
        shape = (int(tables.out_features[layer]), int(tables.in_features[layer]))
        rows = table.matching(block_members([tables.layers[layer]]), shape, batch)
        rows = [row for row in rows if row.quantizer == "fp16"]
        allowed = [row for row in rows if kernels is None or row.kernel in kernels] or rows
        total += Fraction(min((row.latency_us for row in allowed), default=Decimal(0)))
    return total


def cost_units(tables: Tables, name: str, used: Mask) -> tuple[Units, Ints]:
    """Units of a named cost and its (layers, quantizers) integers; 0 where `used` is False.

    Raises ValueError where an option that may be used has no row."""
    values = tables.costs[name]
    missing = np.argwhere(used & np.isnan(values))
    if len(missing):
        layer, quantizer = missing[0]
        raise ValueError(
            f"costs.csv has no row {tables.layers[layer]},{tables.quantizers[quantizer]} for budget {name}"
        )
    distinct, where = np.unique(np.where(used, values, 0.0), return_inverse=True)
    decimals = [Decimal(repr(float(value))) for value in distinct]
    digits = max(-int(value.as_tuple().exponent) for value in decimals)
    largest = Fraction(float(np.where(used, values, 0.0).max(axis=1).sum()))
    unit = Units(name=name, decimals=_fitting(digits, largest), fixed=Fraction(0))
    return unit, np.array([unit.round_up(value) for value in decimals], np.int64)[where].reshape(values.shape)


def _fitting(digits: int, largest: Fraction) -> int:
    """The number of decimals, at most `digits`, with which `largest` stays below LARGEST."""
    decimals = max(digits, 0)
    while largest * 10**decimals > LARGEST:
        decimals -= 1
    if decimals < 0:
        raise ValueError(f"costs of {float(largest):g} in total do not fit 61 bits; use a larger unit")
    return decimals


def _check_shapes(tables: Tables, table: LatencyTable) -> None:
    """A row without a shape must mean one shape: layers of the same last names differ in size across some models."""
    groups: dict[str, dict[str, int]] = {}
    for at, group in enumerate(tables.fusion_group):
        groups.setdefault(group, {})[tables.layers[at].rsplit(".", 1)[-1]] = at
    for (members, _), rows in table.rows.items():
        shapes = set()
        for parts in groups.values():
            if all(part in parts for part in members):
                inside = [parts[part] for part in members]
                shapes.add((int(tables.out_features[inside].sum()), int(tables.in_features[inside[0]])))
        bare = [row for row in rows if row.shape is None]
        if bare and len(shapes) > 1:
            raise ValueError(
                f"{table.path}: line {bare[0].line}: {'+'.join(members)} has the shapes {sorted(shapes)}; its "
                "rows need out_features and in_features"
            )
