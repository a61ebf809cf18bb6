r"""Problem: the multiple-choice knapsack of mixed-scheme quantization.

    minimise  sum_g loss[x_g]   s.t.  sum_g costs[b, x_g] <= limits[b] for every budget b,   x_g one option of group g

A group is a layer, or a fusion group where latency counts; an option is a quantizer (and a kernel and fused partners)
for each of its layers. Costs are integers in units of 10^-decimals: bytes have 0 decimals; microseconds keep as many
digits of the table as 62 bits hold and are rounded up, limits down, so that a plan within the integer limit is within
the real one. Dominated options are pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alloc.budgets import Budgets, fp16_bytes, matching, within_pattern
from alloc.choice import Choice
from alloc.fusion import BlockCode, FusionOptions
from alloc.pareto import fronts
from alloc.scope import Scope, make_scope
from alloc.tables import Tables
from alloc.units import Units, cost_units, latency_table, latency_units

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

__all__ = ["Budgets", "Choice", "Problem", "build_problem", "lay_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Group g owns the options `offsets[g]:offsets[g + 1]`, at least one, sorted by (costs, loss), none dominated.

    `limits` are net of `units[b].fixed`, what is spent before the first option."""

    scope: Scope
    units: tuple[Units, ...]  # (budgets,)
    limits: Ints  # (budgets,)
    members: tuple[tuple[int, ...], ...]  # (groups,) positions of the layers in the tables
    offsets: Ints  # (groups + 1,)
    loss: Floats  # (options,) nats/token
    costs: Ints  # (budgets, options)
    blocks: Ints  # (options, widest group) block code of each member
    code: BlockCode

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.offsets) - 1

    @property
    def tables(self) -> Tables:
        """The tables it was built from."""
        return self.scope.tables

    def decode(self, chosen: Ints) -> dict[str, Choice]:
        """(groups,) option of each group -> layer name -> choice, in the order of layers.csv."""
        plan: dict[int, Choice] = {}
        names = self.tables.layers
        kernels = self.tables.latency.kernels if self.tables.latency is not None else ()
        for layers, option in zip(self.members, chosen, strict=True):
            for at, layer in enumerate(layers):
                mask, quantizer, kernel = self.code.decode(self.blocks[option, at])
                plan[layer] = Choice(
                    quantizer=self.tables.quantizers[quantizer],
                    kernel=kernels[kernel] if kernel >= 0 else None,
                    fused_with=tuple(names[other] for i, other in enumerate(layers) if mask >> i & 1 and i != at),
                )
        return {names[layer]: plan[layer] for layer in sorted(plan)}

    def total(self, chosen: Ints) -> Ints:
        """(budgets,) exact integer costs of a plan."""
        return self.costs[:, chosen].sum(axis=1)


def build_problem(
    tables: Tables,
    *,
    budgets: Budgets,
    members: Sequence[str] | None = None,
    pins: Mapping[str, str] | Sequence[str] = (),
    exclude: Sequence[str] = (),
    kernels: Sequence[str] | None = None,
    fusion: bool = True,
    batch: int = 1,
    whole_model: bool = False,
) -> Problem:
    """Lay the tables out as a problem.

    `members`: shell patterns of the palette (default: every quantizer); `pins`: layer pattern -> quantizer, or
    `PATTERN:QUANTIZER`; `exclude`: patterns of layers to leave unquantized; `kernels`: patterns (default: all).
    The latency table is used where latency is limited. Raises ValueError on an unknown name, a contradiction, or a
    budget below the smallest feasible cost, naming what is achievable."""
    problem = lay_out(
        make_scope(
            tables,
            budgets=budgets,
            members=members,
            pins=pins,
            exclude=exclude,
            kernels=kernels,
            fusion=fusion,
            batch=batch,
            whole_model=whole_model,
        )
    )
    _check_reach(problem)
    return problem


def lay_out(scope: Scope) -> Problem:
    """The problem of a scope, feasible or not. Raises ValueError where a layer is left without any option."""
    tables, names = scope.tables, tuple(scope.limits)
    units, costs_of = layer_costs(scope)
    code = BlockCode(quantizers=len(tables.quantizers), kernels=len(tables.latency.kernels) if tables.latency else 0)
    if "latency_us" in names:
        at = names.index("latency_us")
        options = FusionOptions(
            scope=scope,
            table=latency_table(tables),
            latency_at=at,
            latency_units=units[at].round_up,
            layer_costs=costs_of,
            code=code,
        )
        parts = _by_fusion_group(scope, options)
    else:
        parts = _by_layer(scope, costs_of, code)
    groups, offsets, loss, costs, blocks = parts
    for array in (offsets, loss, costs, blocks):
        array.setflags(write=False)
    return Problem(
        scope=scope,
        units=units,
        limits=np.array([unit.round_down(scope.limits[unit.name]) for unit in units], np.int64),
        members=groups,
        offsets=offsets,
        loss=loss,
        costs=costs,
        blocks=blocks,
        code=code,
    )


def layer_costs(scope: Scope) -> tuple[tuple[Units, ...], Ints]:
    """Units of every budget, and (budgets, layers, quantizers) integer costs; 0 for latency, which blocks have."""
    tables, names = scope.tables, tuple(scope.limits)
    units, costs = [], np.zeros((len(names), *tables.loss.shape), np.int64)
    for at, name in enumerate(names):
        if name == "latency_us":
            units.append(latency_units(scope))
        elif name == "memory_bytes":
            outside = fp16_bytes(tables, ~scope.allocated) if scope.whole_model else 0
            units.append(Units(name=name, decimals=0, fixed=Fraction(outside)))
            costs[at] = tables.storage_bytes
        elif (pattern := within_pattern(name)) is not None:
            inside = matching(tables, scope.allocated, pattern)
            units.append(Units(name=name, decimals=0, fixed=Fraction(0), params=int(tables.params[inside].sum())))
            costs[at] = tables.storage_bytes * inside[:, None]
        else:
            unit, costs[at] = cost_units(tables, name, scope.allowed & scope.allocated[:, None])
            units.append(unit)
    return tuple(units), costs


Parts = tuple[tuple[tuple[int, ...], ...], Ints, Floats, Ints, Ints]


def _by_layer(scope: Scope, layer_costs: Ints, code: BlockCode) -> Parts:
    """Without latency nothing couples the layers of a fusion group: every layer is a group."""
    tables, allowed = scope.tables, scope.allowed
    layers = np.flatnonzero(scope.allocated)
    row, quantizer = np.nonzero(allowed[layers])
    offsets = np.concatenate([[0], np.cumsum(allowed[layers].sum(axis=1))]).astype(np.int64)
    loss = np.ascontiguousarray(tables.loss[layers[row], quantizer])
    costs = np.ascontiguousarray(layer_costs[:, layers[row], quantizer])
    kept, offsets = fronts(offsets, loss, costs)
    blocks = code.encode(1, quantizer[kept], -1)[:, None]
    return tuple((int(layer),) for layer in layers), offsets, loss[kept], costs[:, kept], blocks


def _by_fusion_group(scope: Scope, options: FusionOptions) -> Parts:
    groups: dict[str, list[int]] = {}
    for layer in np.flatnonzero(scope.allocated):
        groups.setdefault(scope.tables.fusion_group[layer], []).append(int(layer))
    width = max(map(len, groups.values()))
    built = [options.group_front(layers) for layers in groups.values()]
    blocks = [np.pad(front.blocks, ((0, 0), (0, width - front.blocks.shape[1]))) for front in built]
    return (
        tuple(tuple(layers) for layers in groups.values()),
        np.concatenate([[0], np.cumsum([len(front.loss) for front in built])]).astype(np.int64),
        np.concatenate([front.loss for front in built]),
        np.ascontiguousarray(np.concatenate([front.costs for front in built], axis=1)),
        np.concatenate(blocks),
    )


def _check_reach(problem: Problem) -> None:
    """Raises ValueError where one budget alone is below the sum of every group's smallest cost."""
    starts, params, batch = problem.offsets[:-1], problem.scope.params, problem.scope.batch
    for at, unit in enumerate(problem.units):
        smallest = int(np.minimum.reduceat(problem.costs[at], starts).sum())
        if smallest > problem.limits[at]:
            best = np.minimum.reduceat(problem.loss, starts).repeat(np.diff(problem.offsets))
            tied = np.where(problem.loss == best, problem.costs[at], np.iinfo(np.int64).max)
            largest = int(np.minimum.reduceat(tied, starts).sum())
            raise ValueError(
                f"budget {unit.describe(problem.scope.limits[unit.name], params, batch)} is impossible; achievable: "
                f"{unit.describe(unit.natural(smallest), params, batch)} (smallest feasible) to "
                f"{unit.describe(unit.natural(largest), params, batch)} (largest useful)"
            )
