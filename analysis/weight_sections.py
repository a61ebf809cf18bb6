"""The sections of the report about weights: sensitivities, rate and distortion, rotation.

Each is a function of the run and its figures to HTML; an absent artifact is named, with the command that makes it."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from analysis import gaussianity, page, sensitivity
from analysis.artifacts import Run
from analysis.numbers import count, fixed, percent, significant

Figures = Mapping[str, Figure]


def rates(run: Run, figures: Figures) -> str:
    """Rate-distortion curves and table."""
    if "rate_distortion.csv" not in run.frames:
        return page.absent("rate_distortion.csv")
    frame = run.frames["rate_distortion.csv"]
    caption = (
        "Distortion E|w \N{MINUS SIGN} Q(w)|\N{SUPERSCRIPT TWO} / E|w|\N{SUPERSCRIPT TWO} measured on a Gaussian "
        "source; no code of any length lies below the dashed bound. One bit is 6.02 dB."
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
        norm, inverse = (significant(frame[name].max()) for name in ("norm_error", "inverse_error"))
        parts += [
            page.paragraph(
                f"A randomized Hadamard rotation of the inputs makes the weights near Gaussian: over {len(frame)} "
                f"layers the kurtosis was up to {significant(off_before)} away from 3 before and is at most "
                f"{significant(off_after)} away after. The norm changes by at most {norm} and the inverse "
                f"returns the weight to {inverse}, both relative."
            ),
            page.drawing(
                "kurtosis", figures["kurtosis"], "Each vertical line is a layer, from before to after; log axis."
            ),
        ]
    else:
        parts.append(page.absent("gaussianity.csv"))
    if "layer_distortion.csv" not in run.frames:
        return "".join([*parts, page.absent("layer_distortion.csv")])
    frame = run.frames["layer_distortion.csv"]
    inside = (frame["ratio"].sub(1).abs() <= gaussianity.AGREES).mean()
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
        f"Distortion on the rotated layer over that of the Gaussian table: {percent(inside)} of {len(frame)} "
        f"measurements lie within 3 %; median {fixed(frame['ratio'].median(), 3)}."
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
        first = known.nlargest(1, "sensitivity").iloc[0]
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
                "Increase of the loss per unit of distortion, by layer type over depth; the other types in grey.",
            ),
        ]
    elif "layers.csv" in run.frames:
        parts.append(page.missing("the column sensitivity of layers.csv", "python -m experiments.sensitivity"))
    else:
        parts.append(page.absent("layers.csv"))
    parts.append(page.heading("Methods against true one-layer quantization"))
    if "sensitivity_check.csv" not in run.frames:
        return "".join([*parts, page.absent("sensitivity_check.csv")])
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
    caption = "A point is a layer quantized alone; bars are 1 s.e. of the measured loss; dashed: predicted = measured."
    return "".join(
        [*parts, page.table(columns, rows), page.drawing("sensitivity_check", figures["sensitivity_check"], caption)]
    )
