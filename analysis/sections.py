"""The sections of the report that show tables as they are: certificate, rates, rotation, sensitivities, layers, run.

Each is a function of the run and its figures to HTML; an absent artifact is named, with the command that makes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from analysis import gaussianity, page, plans, sensitivity
from analysis.artifacts import BY_FILE, PIPELINE, Run
from analysis.numbers import count, duration, fixed, percent, significant, size

Figures = Mapping[str, Figure]
UNITS = {"memory_bytes": "bytes", "latency_us": "\N{MICRO SIGN}s"}


def absent(file: str) -> str:
    """The note for an absent table."""
    return page.missing(file, BY_FILE[file].command)


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
        "The objective is the predicted loss, the sum over layers of sensitivity \N{MULTIPLICATION SIGN} distortion; no "
        "plan of this palette within the budget can lie below the lower bound. A price is what one more unit of the "
        "budget would save."
    )
    return page.paragraph(note) + first + "".join(rest)


def _certificate(content: Mapping[str, Any]) -> str:
    rows = [
        ("status", str(content["status"])),
        ("objective", f"{content['objective']:.10g} nats/token"),
        ("lower bound", f"{content['lower_bound']:.10g} nats/token"),
        ("gap", f"{significant(content['gap'])} of the objective"),
    ]
    if content.get("tolerance") is not None:
        rows[-1] = ("gap", f"{rows[-1][1]} (tolerance {significant(content['tolerance'])})")
    for name, cost in content["costs"].items():
        unit = UNITS.get(name, "")
        digits = 0 if float(cost).is_integer() else 2
        value = f"{fixed(cost, digits)} {unit}".strip()
        budget = content["budgets"].get(name)
        if budget is not None:
            value += f" of a budget of {fixed(budget, digits)} ({percent(cost / budget if budget else None, 3)})"
        rows.append((name, value))
    for name, price in content.get("prices", {}).items():
        rows.append((f"price of {name}", f"{significant(price)} nats/token per {UNITS.get(name, 'unit').rstrip('s')}"))
    if content.get("solver") is not None:
        rows.append(("solver", f"{content['solver']}, {duration(content.get('runtime_s'))}"))
    return page.facts(rows)


def rates(run: Run, figures: Figures) -> str:
    """Rate-distortion curves and table."""
    if "rate_distortion.csv" not in run.frames:
        return absent("rate_distortion.csv")
    frame = run.frames["rate_distortion.csv"]
    caption = (
        "Distortion E|w \N{MINUS SIGN} Q(w)|\N{SUPERSCRIPT TWO} / E|w|\N{SUPERSCRIPT TWO} measured on a Gaussian source; "
        "no code of any length lies below the dashed bound. One bit is 6.02 dB."
    )
    rows = [
        (
            str(row["quantizer"]),
            significant(row["bits_per_weight"], 4),
            significant(row["distortion"], 4),
            significant(row["standard_error"], 2),
            fixed(row["gap_db"], 2),
            count(row["state_bits"]),
            count(row["weights"]),
        )
        for _, row in frame.iterrows()
    ]
    columns = [
        page.text("quantizer"),
        *map(page.number, ("bits per weight", "distortion", "s.e.", "gap [dB]", "state bits", "weights measured")),
    ]
    folded = page.folded(f"Table of {len(frame)} quantizers", page.table(columns, rows))
    return page.drawing("rate_distortion", figures["rate_distortion"], caption) + folded


def rotation(run: Run, figures: Figures) -> str:
    """Gaussianity before and after, and the layers where the Gaussian table does not hold."""
    parts = []
    if "gaussianity.csv" in run.frames:
        frame = run.frames["gaussianity.csv"]
        off_before, off_after = (
            (frame[name] - gaussianity.GAUSSIAN).abs().max() for name in ("kurtosis_before", "kurtosis_after")
        )
        parts += [
            page.paragraph(
                f"A randomized Hadamard rotation of the inputs makes the weights near Gaussian: over {len(frame)} layers "
                f"the kurtosis was up to {significant(off_before)} away from 3 before and is at most "
                f"{significant(off_after)} away after. The norm changes by at most {significant(frame['norm_error'].max())} "
                f"and the inverse returns the weight to {significant(frame['inverse_error'].max())}, both relative."
            ),
            page.drawing(
                "kurtosis", figures["kurtosis"], "Each vertical line is a layer, from before to after; log axis."
            ),
        ]
    else:
        parts.append(absent("gaussianity.csv"))
    if "layer_distortion.csv" not in run.frames:
        return "".join([*parts, absent("layer_distortion.csv")])
    frame = run.frames["layer_distortion.csv"]
    inside = (frame["ratio"].sub(1).abs() <= 0.03).mean()
    worst = gaussianity.worst_layers(frame, 10)
    rows = [
        (
            r["layer"],
            r["quantizer"],
            significant(r["distortion"], 4),
            significant(r["gaussian_distortion"], 4),
            fixed(r["ratio"], 3),
        )
        for _, r in worst.iterrows()
    ]
    columns = [
        page.text("layer"),
        page.text("quantizer"),
        *map(page.number, ("distortion on the layer", "on a Gaussian", "ratio")),
    ]
    caption = (
        f"Distortion on the rotated layer over that of the Gaussian table: {percent(inside)} of {len(frame)} measurements "
        f"lie within 3 %; median {fixed(frame['ratio'].median(), 3)}."
    )
    parts += [
        page.heading("Does the Gaussian table hold on the rotated layers?"),
        page.drawing("distortion_ratio", figures["distortion_ratio"], caption),
        page.heading("Layers farthest from the table"),
        page.table(columns, rows),
    ]
    return "".join(parts)


def sensitivities(run: Run, figures: Figures) -> str:
    """Sensitivity over depth and the comparison of methods with one-layer quantization."""
    parts = []
    if "sensitivity" in figures:
        frame = run.frames["layers.csv"]
        known = frame[frame["sensitivity"] > 0]
        first = known.loc[known["sensitivity"].idxmax()]
        share = first["sensitivity"] / known["sensitivity"].sum()
        method = ""
        if "sensitivity_method" in known.columns:
            method = f", method {', '.join(sorted(set(known['sensitivity_method'].dropna().astype(str))))}"
        parts += [
            page.paragraph(
                f"{len(known)} layers have a sensitivity{method}; the largest, {first['layer']}, alone holds "
                f"{percent(share)} of the sum."
            ),
            page.drawing(
                "sensitivity",
                figures["sensitivity"],
                "Increase of the loss per unit of distortion, by layer type over depth, on one log axis; the other types in grey.",
            ),
        ]
    elif "layers.csv" in run.frames:
        parts.append(page.missing("the column sensitivity of layers.csv", "python -m experiments.sensitivity"))
    else:
        parts.append(absent("layers.csv"))
    parts.append(page.heading("Methods against true one-layer quantization"))
    if "sensitivity_check.csv" not in run.frames:
        return "".join([*parts, absent("sensitivity_check.csv")])
    rows = [
        (
            r["method"],
            count(r["layers"]),
            fixed(r["spearman"], 3),
            fixed(r["median_ratio"], 2),
            percent(r["within_25_percent"], 0),
        )
        for _, r in sensitivity.method_table(run.frames["sensitivity_check.csv"]).iterrows()
    ]
    columns = [
        page.text("method"),
        *map(page.number, ("layers", "Spearman", "median predicted / measured", "within 25 %")),
    ]
    caption = "One point a layer quantized alone; bars are 1 s.e. of the measured loss; the dashed line is predicted = measured."
    return "".join(
        [*parts, page.table(columns, rows), page.drawing("sensitivity_check", figures["sensitivity_check"], caption)]
    )


def bits(run: Run, figures: Figures) -> str:
    """The map and, per plan, the table of layers."""
    parts = []
    if "bit_map" in figures:
        caption = "Columns are blocks, rows layer types; the number is bits per weight, the strip below it the family."
        parts.append(page.drawing("bit_map", figures["bit_map"], caption))
    else:
        parts.append(page.missing("a mixed plan in plans/NAME/allocation.json", "python -m experiments.allocate"))
    if "quantization.csv" not in run.frames:
        return "".join([*parts, absent("quantization.csv")])
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


def machine(run: Run, figures: Figures) -> str:
    """Command, environment, config and seconds."""
    parts = []
    if run.info:
        command = run.info.get("command", [])
        words = command if isinstance(command, str) else shlex.join(str(word) for word in command)
        environment = run.info.get("environment", {})
        packages = environment.get("packages", {})
        rows = [(name, str(value)) for name, value in environment.items() if name != "packages"]
        rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
        parts += [page.code(words), page.facts(rows)]
        parts.append(page.folded("Configuration", page.code(_outline(run.info.get("config", {})))))
    else:
        parts.append(page.missing("run.json", PIPELINE))
    if "stages" in figures:
        total = duration(sum(run.seconds.values()))
        parts += [
            page.heading("Where the seconds went"),
            page.drawing("stages", figures["stages"], f"Seconds of each stage; {total} in total."),
        ]
    elif run.info:
        parts.append(page.missing("the field seconds of run.json", PIPELINE))
    return "".join(parts)


def _outline(value: Any, depth: int = 0) -> str:
    """Nested settings as indented lines."""
    pad = "  " * depth
    lines = []
    for name, item in value.items():
        nested = isinstance(item, dict) and item
        lines.append(f"{pad}{name}:" + (f"\n{_outline(item, depth + 1)}" if nested else f" {item}"))
    return "\n".join(lines)
