"""What a layer of a plan got and why, or what two plans differ in.

`python -m experiments.explain plan=allocation.json tables=FOLDER layer=PATTERN` prints, for each layer, its choice and
its next better and next worse options at the plan's prices; with `diff=OTHER.json`, the layers that differ."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from alloc.choice import Choice
from alloc.explain import Explained, Move, difference, explain
from alloc.pricing import plan_costs, plan_loss
from alloc.solution import Solution, read_allocation
from alloc.tables import Tables, read_tables
from experiments.allocate import flag, strings, whole
from experiments.entry import run

# relative: the same sum in another order, or a plan rounded to nine digits
REPRICED = 1e-8
SYMBOLS = {"memory_bytes": "bytes", "latency_us": "us"}


def main(cfg: DictConfig) -> None:
    """Print the explanation, or with `diff` the difference."""
    tables, plan = read_tables(str(cfg.tables)), read_allocation(str(cfg.plan))
    layer, batch = str(cfg.layer), whole("batch", cfg.batch)
    if cfg.diff is not None:
        other = read_allocation(str(cfg.diff))
        print(difference_text(tables, plan, other, difference(tables, plan, other, layer), batch=batch))
        return
    found = explain(
        tables,
        plan,
        layer,
        members=None if cfg.palette.members is None else list(strings("palette.members", cfg.palette.members)),
        kernels=None if cfg.kernels is None else list(strings("kernels", cfg.kernels)),
        fusion=flag("fusion", cfg.fusion),
        batch=batch,
    )
    print("\n".join([*heading(tables, plan, found), *(explained_text(row) for row in found)]))


def heading(tables: Tables, plan: Solution, found: list[Explained]) -> list[str]:
    """The prices, and a warning where the tables do not give the plan's own loss."""
    prices = ", ".join(f"{name} {value:.4g} nats per unit" for name, value in found[0].prices.items())
    lines = [f"{len(found)} layers; prices: {prices}"]
    loss = plan_loss(tables, plan.layers)
    if abs(loss - plan.objective) > REPRICED * abs(loss):
        lines.append(f"these tables predict {loss:.10g} for the plan, which says {plan.objective:.10g}: other tables")
    return lines


def explained_text(row: Explained) -> str:
    """A few lines."""
    bits = 8 * row.memory_bytes / row.params
    lines = [
        f"{row.layer}: {_choice(row.choice)}, {row.memory_bytes} bytes ({bits:.4g} bits per weight), predicted loss "
        f"{row.layer_loss:.4g} nats/token (sensitivity {row.sensitivity:.4g})"
    ]
    if len(row.group) > 1:
        spent = ", ".join(f"{value:.10g} {SYMBOLS.get(name, name)}" for name, value in row.costs.items())
        lines.append(f"  chooses with {_names(row.group)}: predicted loss {row.loss:.4g}, {spent}")
    for words, move in (("next better", row.better), ("next worse", row.worse)):
        lines.append(f"  {words}: {_move(move)}")
    return "\n".join(lines)


def difference_text(tables: Tables, a: Solution, b: Solution, rows: pd.DataFrame, *, batch: int) -> str:
    """A line a layer that differs, then the totals of both plans."""
    lines = []
    for row in rows.to_dict("records"):
        sides = [
            _choice(Choice(quantizer=row[f"quantizer_{s}"], kernel=row[f"kernel_{s}"], fused_with=_split(row, s)))
            for s in "ab"
        ]
        lines.append(
            f"{row['layer']}: {sides[0]} -> {sides[1]}, {row['memory_bytes_b'] - row['memory_bytes_a']:+d} bytes, "
            f"loss {row['loss_b'] - row['loss_a']:+.4g}"
        )
    lines.append(f"{len(rows)} layers differ")
    costs = [plan_costs(tables, plan.layers, batch=batch) for plan in (a, b)]
    losses = [plan_loss(tables, plan.layers) for plan in (a, b)]
    lines.append(f"predicted loss {losses[0]:.10g} -> {losses[1]:.10g} ({losses[1] - losses[0]:+.4g} nats/token)")
    lines += [
        f"{name} {_plain(costs[0], name)} -> {_plain(costs[1], name)} ({float(costs[1][name] - costs[0][name]):+.10g})"
        for name in costs[0]
        if name in costs[1]
    ]
    return "\n".join(lines)


def _split(row: Mapping[Any, Any], side: str) -> tuple[str, ...]:
    return tuple(filter(None, row[f"fused_with_{side}"].split("+")))


def _plain(costs: Mapping[str, Fraction], name: str) -> str:
    return f"{float(costs[name]):.10g}" if costs[name].denominator > 1 else str(int(costs[name]))


def _choice(choice: Choice) -> str:
    words = [choice.quantizer, *([choice.kernel] if choice.kernel else [])]
    return " ".join(words) + (f" fused with {_names(choice.fused_with)}" if choice.fused_with else "")


def _names(layers: tuple[str, ...]) -> str:
    return "+".join(name.rsplit(".", 1)[-1] for name in layers)


def _move(move: Move | None) -> str:
    if move is None:
        return "none"
    changes = ", ".join(f"{name.rsplit('.', 1)[-1]} -> {_choice(choice)}" for name, choice in move.layers.items())
    costs = ", ".join(f"{value:+.10g} {SYMBOLS.get(name, name)}" for name, value in move.costs.items())
    return f"{changes}: loss {move.loss:+.4g}; {costs} ({move.priced:+.4g} at the prices); net {move.net:+.4g}"


if __name__ == "__main__":
    run(main, "explain")
