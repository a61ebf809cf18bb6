"""The sections of the report about plans: certificate, Pareto front, predicted against measured, bits by layer.

Each is a function of the run and its figures to HTML; an absent artifact is named, with the command that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from analysis import page, plans
from analysis.artifacts import PIPELINE, Run
from analysis.numbers import count, duration, fixed, percent, significant, size, with_error

Figures = Mapping[str, Figure]
# cost -> its name, its unit, one of its unit; other costs are named by the tables and have their own units
UNITS = {
    "memory_bytes": ("memory", "bytes", "byte"),
    "latency_us": ("latency", "\N{MICRO SIGN}s", "\N{MICRO SIGN}s"),
}


def certificate(run: Run, figures: Figures) -> str:
    """What the solver proved for each mixed plan; the main plan first."""
    kind, main = plans.kinds(run), plans.main_plan(run)
    names = [plan for plan in run.allocations if kind[plan] == plans.MIXED]
    if not names:
        return page.missing("plans/NAME/allocation.json", "python -m experiments.allocate")
    names.sort(key=lambda plan: plan != main)
    first = page.heading(f"Plan {names[0]}") + _certificate(run.allocations[names[0]])
    rest = [page.folded(f"Plan {plan}", _certificate(run.allocations[plan])) for plan in names[1:]]
    note = (
        "The objective is the predicted loss, the sum over layers of sensitivity \N{MULTIPLICATION SIGN} distortion; "
        "no plan of this palette within the budget can lie below the lower bound. A price is what one more unit of the "
        "budget would save."
    )
    return page.paragraph(note) + first + "".join(rest)


def _certificate(content: Mapping[str, Any]) -> str:
    bound = content["lower_bound"]
    rows = [
        ("status", str(content["status"])),
        ("objective", f"{content['objective']:.10g} nats/token"),
        ("lower bound", "none proven" if bound is None else f"{bound:.10g} nats/token"),
        ("gap", "unknown" if content["gap"] is None else f"{significant(content['gap'])} of the objective"),
    ]
    if content.get("tolerance") is not None and content["gap"] is not None:
        rows[-1] = ("gap", f"{rows[-1][1]} (tolerance {significant(content['tolerance'])})")
    for name, cost in content["costs"].items():
        title, unit, _ = UNITS.get(name, (name, "", ""))
        digits = 0 if float(cost).is_integer() else 2
        value = f"{fixed(cost, digits)} {unit}".strip()
        budget = content["budgets"].get(name)
        if budget is not None:
            value += f" of a budget of {fixed(budget, digits)} ({percent(cost / budget if budget else None, 3)})"
        rows.append((title, value))
    for name, price in content.get("prices", {}).items():
        title, _, unit = UNITS.get(name, (name, "", "unit"))
        rows.append((f"price of {title}", f"{significant(price)} nats/token per {unit}"))
    if content.get("solver") is not None:
        rows.append(("solver", f"{content['solver']}, {duration(content.get('runtime_s'))}"))
    return page.facts(rows)


def front(run: Run, figures: Figures) -> str:
    """The Pareto figure and its table."""
    if "pareto.csv" not in run.frames:
        return page.absent("pareto.csv")
    frame = run.frames["pareto.csv"]
    measured = int(frame["measured_kl"].notna().sum())
    caption = (
        f"{len(frame)} plans predicted, {measured} measured, in nats/token on one log axis; bars are 1 s.e. over "
        "windows. An ideal code loses a factor of 4 per bit."
    )
    heads = ("bits per weight", "bytes", "predicted loss", "lower bound", "measured KL")
    rows = [
        (
            row["plan"],
            row["solver"],
            fixed(row["budget_bits_per_weight"], 3),
            count(row["memory_bytes"]),
            significant(row["predicted_loss"], 5),
            significant(row["lower_bound"], 5),
            with_error(row["measured_kl"], row["measured_kl_se"]),
        )
        for _, row in frame.iterrows()
    ]
    table = page.table([page.text("plan"), page.text("solver"), *map(page.number, heads)], rows)
    return page.drawing("pareto", figures["pareto"], caption) + page.folded(f"Table of {len(frame)} plans", table)


def prediction(run: Run, figures: Figures) -> str:
    """The figure of predicted against measured plans, or why it is not there."""
    if "predicted_measured" in figures:
        caption = (
            "A point is a plan; bars are 1 s.e.; inside the band the prediction is within 25 % of the measurement."
        )
        return page.drawing("predicted_measured", figures["predicted_measured"], caption)
    if "summary.csv" in run.frames:
        return page.missing("a predicted loss in summary.csv", PIPELINE)
    return page.absent("summary.csv")


def bits(run: Run, figures: Figures) -> str:
    """The map and, per plan, the table of layers."""
    parts = []
    if "bit_map" in figures:
        caption = "Columns are blocks, rows layer types; the number is bits per weight, the strip below it the family."
        parts.append(page.drawing("bit_map", figures["bit_map"], caption))
    else:
        parts.append(page.missing("a mixed plan in plans/NAME/allocation.json", "python -m experiments.allocate"))
    if "quantization.csv" not in run.frames:
        return "".join([*parts, page.absent("quantization.csv")])
    frame = run.frames["quantization.csv"]
    bits = plans.assignments(run).set_index(["plan", "layer"])["bits_per_weight"]
    columns = [
        page.text("layer"),
        page.text("quantizer"),
        *map(page.number, ("bits per weight", "bytes", "distortion", "seconds")),
    ]
    for plan, own in frame.groupby("plan", sort=False):
        rows = [
            (
                str(r["layer"]),
                str(r["quantizer"]),
                fixed(bits.get((plan, r["layer"])), 3),
                count(r["storage_bytes"]),
                significant(r["distortion"], 4),
                fixed(r["seconds"], 2),
            )
            for _, r in own.iterrows()
        ]
        title = f"Plan {plan}: {len(own)} layers, {size(own['storage_bytes'].sum())}, {duration(own['seconds'].sum())}"
        parts.append(page.folded(title, page.table(columns, rows)))
    return "".join(parts)
