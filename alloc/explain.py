r"""Why a layer got what it got, and what two plans differ in.

At the prices p of the budgets an option of a group is worth its value v = loss + p . cost, least where the plan is best
(but for the few groups that fill a limit to the last byte). Of the group's options in which the layer itself loses
less, the one of least v is what the layer would get next; of those in which it loses more, what it would fall back to.
`net` is how much worse than the choice such an option is at these prices; below 0 the plan is not the best one. An
option that loses the same and costs less counts as better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from glob import escape

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alloc.budgets import Budgets, matching, within_pattern
from alloc.choice import Choice
from alloc.pricing import plan_costs, plan_loss
from alloc.problem import Problem, build_problem
from alloc.solution import Solution
from alloc.solvers.dual import peak
from alloc.tables import Tables
from alloc.units import latency_offset

FP16 = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Another option of a group: `layers` that change -> their choice; differences to the plan, loss in nats/token,
    `costs` in bytes, microseconds or own units; `priced` nats/token, the costs at the prices; net = loss + priced."""

    layers: Mapping[str, Choice]
    loss: float
    costs: Mapping[str, float]
    priced: float

    @property
    def net(self) -> float:
        """What the move loses at the prices, nats/token."""
        return self.loss + self.priced


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A layer of a plan. `group`: the layers that choose together with it (itself alone where latency has no budget);
    `loss` nats/token and `costs` of the whole group; `better` and `worse` None where there is no such option."""

    layer: str
    choice: Choice
    params: int
    sensitivity: float
    memory_bytes: int
    layer_loss: float
    group: tuple[str, ...]
    loss: float
    costs: Mapping[str, float]
    prices: Mapping[str, float]
    better: Move | None
    worse: Move | None


def explain(
    tables: Tables,
    plan: Solution,
    pattern: str = "*",
    *,
    members: list[str] | None = None,
    kernels: list[str] | None = None,
    fusion: bool = True,
    batch: int = 1,
) -> list[Explained]:
    """The layers of `plan` that `pattern` (shell pattern) names, in the order of layers.csv.

    The budgets are the plan's own, or its costs where it states none; the prices are the plan's, or those of the
    Lagrangian dual where it states none. `members`, `kernels`, `fusion` and `batch` as the plan was made. Raises
    ValueError on a pattern without match and on a plan that does not fit the tables."""
    chosen = {name: choice for name, choice in plan.layers.items() if name in tables.layers}
    plan_loss(tables, plan.layers)  # names what the tables have not
    wanted = [name for name in tables.layers if name in chosen and fnmatchcase(name, pattern)]
    if not wanted:
        raise ValueError(f"layer={pattern!r} matches no layer of the plan; the first is {next(iter(chosen))!r}")
    problem = _problem(tables, plan, members, kernels, fusion, batch)
    prices = _prices(problem, plan)
    group_of = {tables.layers[at]: group for group, layers in enumerate(problem.members) for at in layers}
    return [
        _explain(problem, chosen, prices, name, group_of[name]) for name in wanted if name in group_of
    ]  # a row of layers.csv without a sensitivity is no group


def difference(tables: Tables, a: Solution, b: Solution, pattern: str = "*") -> pd.DataFrame:
    """The layers whose quantizer, kernel or fused partners differ: layer, quantizer, kernel, fused_with, memory_bytes
    and loss (nats/token), each of `a` and `b`. A layer that a plan leaves out is fp16. Raises as `explain`."""
    for plan in (a, b):
        plan_loss(tables, plan.layers)
    rows = []
    for at, name in enumerate(tables.layers):
        pair = [plan.layers.get(name, Choice(quantizer=FP16)) for plan in (a, b)]
        if fnmatchcase(name, pattern) and not _same(*pair):
            row: dict[str, object] = {"layer": name}
            for side, choice in zip("ab", pair, strict=True):
                size, loss = _layer(tables, at, choice)
                row |= {
                    f"quantizer_{side}": choice.quantizer,
                    f"kernel_{side}": choice.kernel,
                    f"fused_with_{side}": "+".join(choice.fused_with),
                    f"memory_bytes_{side}": size,
                    f"loss_{side}": loss,
                }
            rows.append(row)
    columns = [
        f"{name}_{side}" for side in "ab" for name in ("quantizer", "kernel", "fused_with", "memory_bytes", "loss")
    ]
    return pd.DataFrame(rows, columns=["layer", *columns])


def _problem(
    tables: Tables, plan: Solution, members: list[str] | None, kernels: list[str] | None, fusion: bool, batch: int
) -> Problem:
    limits = dict(plan.budgets)
    if not limits:
        costs = plan_costs(tables, plan.layers, batch=batch)
        limits = {name: float(costs[name]) for name in ("memory_bytes", "latency_us") if name in costs}
    memory, latency = limits.pop("memory_bytes", None), limits.pop("latency_us", None)
    within = {pattern: limits.pop(name) for name in plan.budgets if (pattern := within_pattern(name)) is not None}
    left_out = [escape(name) for name, free in zip(tables.layers, tables.allocatable, strict=True) if free]
    left_out = [name for name in left_out if name not in {escape(layer) for layer in plan.layers}]
    return build_problem(
        tables,
        budgets=Budgets(
            memory_bytes=None if memory is None else int(memory),
            latency_us=latency,
            named=limits,
            within=_bits(tables, plan, within),
        ),
        members=members,
        exclude=left_out,
        kernels=kernels,
        fusion=fusion,
        batch=batch,
    )


def _bits(tables: Tables, plan: Solution, within: Mapping[str, float]) -> dict[str, float]:
    """Bytes of each pattern's layers -> bits per weight that mean at least those."""
    found, held = {}, tables.allocatable & np.array([name in plan.layers for name in tables.layers])
    for pattern, limit in within.items():
        params = int(tables.params[matching(tables, held, pattern)].sum())
        # half a byte on top, so that rounding down gives the limit again
        found[pattern] = 8.0 * (limit + 0.5) / params
    return found


def _prices(problem: Problem, plan: Solution) -> dict[str, float]:
    names = [unit.name for unit in problem.units]
    if all(name in plan.prices for name in names):
        return {name: float(plan.prices[name]) for name in names}
    scaled = zip(problem.units, peak(problem).prices, strict=True)
    return {unit.name: float(price) * 10.0**unit.decimals for unit, price in scaled}


def _explain(
    problem: Problem, plan: Mapping[str, Choice], prices: dict[str, float], name: str, group: int
) -> Explained:
    tables = problem.tables
    layers = tuple(tables.layers[at] for at in problem.members[group])
    held = {layer: plan[layer] for layer in layers}
    loss, costs = plan_loss(tables, held), _group_costs(problem, held)
    options = np.arange(problem.offsets[group], problem.offsets[group + 1])
    gain = problem.loss[options] - loss
    extra = np.array(
        [
            [float(unit.natural(int(cost)) - unit.fixed - costs[unit.name]) for cost in problem.costs[at, options]]
            for at, unit in enumerate(problem.units)
        ]
    )
    priced = np.array([prices[unit.name] for unit in problem.units]) @ extra
    # sums of the same losses in another order differ in the last digits
    same = np.abs(gain) <= 1e-12 * abs(loss)
    dominates = same & (extra <= 0).all(axis=0) & (priced < -1e-9 * abs(loss))
    at = tables.layers.index(name)
    size, own = _layer(tables, at, held[name])
    quantizer = problem.code.quantizer(problem.blocks[options, problem.members[group].index(at)])
    own_gain = tables.loss[at, quantizer] - own

    def best(mask: NDArray[np.bool_]) -> Move | None:
        if not mask.any():
            return None
        pick = int(np.flatnonzero(mask)[np.argmin((gain + priced)[mask])])
        decoded = _decode(problem, group, int(options[pick]))
        return Move(
            layers={layer: choice for layer, choice in decoded.items() if not _same(choice, held[layer])},
            loss=float(gain[pick]),
            costs={unit.name: float(extra[i, pick]) for i, unit in enumerate(problem.units)},
            priced=float(priced[pick]),
        )

    return Explained(
        layer=name,
        choice=held[name],
        params=int(tables.params[at]),
        sensitivity=float(tables.sensitivity[at]),
        memory_bytes=size,
        layer_loss=own,
        group=layers,
        loss=loss,
        costs={key: float(value) for key, value in costs.items()},
        prices=prices,
        better=best((own_gain < 0) | dominates),
        worse=best((own_gain > 0) & ~dominates),
    )


def _group_costs(problem: Problem, held: Mapping[str, Choice]) -> dict[str, Fraction]:
    """Each budgeted cost of the choices `held` of one group."""
    tables, batch = problem.tables, problem.scope.batch
    within = [pattern for unit in problem.units if (pattern := within_pattern(unit.name)) is not None]
    costs = plan_costs(tables, held, batch=batch, within=within)
    if "latency_us" in costs:
        outside = np.array([name not in held for name in tables.layers])
        costs["latency_us"] -= latency_offset(tables, outside, batch)
    missing = [unit.name for unit in problem.units if unit.name not in costs]
    if missing:
        raise ValueError(f"the plan has no {missing[0]} for {', '.join(held)}: it names no kernel or the table no row")
    return {unit.name: costs[unit.name] for unit in problem.units}


def _decode(problem: Problem, group: int, option: int) -> dict[str, Choice]:
    return replace(problem, members=problem.members[group : group + 1]).decode(np.array([option]))


def _same(a: Choice, b: Choice) -> bool:
    """Equal but for the order of the partners."""
    return (a.quantizer, a.kernel, set(a.fused_with)) == (b.quantizer, b.kernel, set(b.fused_with))


def _layer(tables: Tables, at: int, choice: Choice) -> tuple[int, float]:
    """(bytes, nats/token) of a choice; a layer left out is fp16, without loss."""
    if not tables.allocatable[at] or choice.quantizer not in tables.quantizers:
        return tables.fp16_bytes(at), 0.0
    quantizer = tables.quantizer_index(choice.quantizer)
    loss = float(tables.loss[at, quantizer])
    return int(tables.storage_bytes[at, quantizer]), loss if math.isfinite(loss) else 0.0
