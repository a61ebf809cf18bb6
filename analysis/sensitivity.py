r"""Sensitivities over depth, and how well each method predicts the loss of one quantized layer.

Over depth: one small panel per layer type on common axes, the other types in grey behind it; a layer's sensitivity is
the increase of the loss per unit of distortion [nats/token]. The check: predicted against measured loss of layers that
were truly quantized alone, one panel per method, with Spearman's rank correlation (Spearman, 1904) and the median of
predicted / measured; the line is predicted = measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.layer_names import ordered_types, short, with_place

CHECK_COLUMNS = ("layer", "quantizer", "distortion", "measured_loss", "measured_loss_se")


def figure(frame: pd.DataFrame) -> Figure:
    """frame: layers.csv; layers without a sensitivity or outside the blocks, or with one <= 0, are left out.
    Error bars where it has `sensitivity_se`. ValueError where no layer remains."""
    placed = with_place(frame)
    placed = placed[(placed["block"] >= 0) & (placed["sensitivity"] > 0)]
    if placed.empty:
        raise ValueError("layers.csv: column 'sensitivity': no positive value inside a block to draw")
    types = ordered_types(placed["type"])
    columns = min(4, len(types))
    rows = -(-len(types) // columns)
    result = style.new_figure(0.7 + 1.75 * rows)
    panels = result.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    curves = {name: placed[placed["type"] == name].sort_values("block", kind="stable") for name in types}
    for axes, name in zip(panels.flat, types, strict=False):
        for other in types:
            if other != name:
                axes.plot(
                    curves[other]["block"], curves[other]["sensitivity"], color=style.FAINT, linewidth=0.9, zorder=1
                )
        own = curves[name]
        errors = own["sensitivity_se"].fillna(0.0) if "sensitivity_se" in own.columns else None
        axes.errorbar(
            own["block"],
            own["sensitivity"],
            yerr=errors,
            color=style.ACCENT,
            marker="o",
            markersize=2.6,
            linewidth=1.1,
            elinewidth=0.8,
            label=name,
        )
        style.dress(axes, title=name, grid="y")
    for axes in list(panels.flat)[len(types) :]:
        axes.set_visible(False)
    panels[0, 0].set_yscale("log")
    style.log_ticks(panels[0, 0].yaxis, placed["sensitivity"].min(), placed["sensitivity"].max())
    for axes in list(panels.flat)[max(0, len(types) - columns) : len(types)]:
        axes.xaxis.set_tick_params(labelbottom=True)  # the lowest panel of its column, also above an empty corner
    result.supxlabel("block", fontsize=9, color=style.INK)
    result.supylabel("sensitivity [nats/token per unit of distortion]", fontsize=9, color=style.INK)
    return result


def methods(check: pd.DataFrame) -> list[str]:
    """The methods of sensitivity_check.csv: its numeric columns beside the fixed ones and standard errors."""
    extra = [name for name in check.columns if name not in CHECK_COLUMNS and not name.endswith("_se")]
    return [name for name in extra if pd.api.types.is_numeric_dtype(check[name])]


def method_table(check: pd.DataFrame) -> pd.DataFrame:
    """One row per method: method, layers, spearman, median_ratio, within_25_percent (a fraction), over the layers where
    both numbers exist; ratios (predicted / measured) only where the measured loss is positive."""
    rows = []
    for name in methods(check):
        both = check.dropna(subset=[name, "measured_loss"])
        ratio = both.loc[both["measured_loss"] > 0, name] / both.loc[both["measured_loss"] > 0, "measured_loss"]
        rows.append(
            {
                "method": name,
                "layers": len(both),
                # Spearman is Pearson's coefficient of the ranks, ties at their mean rank
                "spearman": both[name].rank().corr(both["measured_loss"].rank()),
                "median_ratio": ratio.median(),
                "within_25_percent": (ratio.sub(1).abs() <= 0.25).mean() if len(ratio) else np.nan,
            }
        )
    return pd.DataFrame(rows, columns=["method", "layers", "spearman", "median_ratio", "within_25_percent"])


def check_figure(frame: pd.DataFrame) -> Figure:
    """frame: sensitivity_check.csv. Log axes: a layer whose predicted or measured loss is <= 0 (noise) is left out and
    counted in the panel's corner. ValueError where the file holds no method's column."""
    table = method_table(frame)
    if table.empty:
        raise ValueError(f"sensitivity_check.csv: no column of a method; the columns are {list(frame.columns)}")
    columns = min(3, len(table))
    rows = -(-len(table) // columns)
    result = style.new_figure(0.5 + 3.3 * rows, width=style.WIDTH if columns > 1 else 5.2)
    panels = result.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    positive = frame.loc[frame["measured_loss"] > 0, "measured_loss"]
    ends = np.array([positive.min() / 2, positive.max() * 2]) if len(positive) else np.array([1e-6, 1e-3])
    both = frame.loc[frame["measured_loss"] > 0, list(table["method"])].to_numpy(dtype=float)
    both = both[both > 0]
    wide = (min(ends[0], both.min() / 2), max(ends[1], both.max() * 2)) if both.size else tuple(ends)
    for axes, method in zip(panels.flat, table.itertuples(), strict=False):
        name = str(method.method)
        drawn = frame[(frame[name] > 0) & (frame["measured_loss"] > 0)]
        axes.plot(ends, ends, color=style.MUTED, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        for family, points in drawn.groupby(drawn["quantizer"].map(style.family), sort=True):
            axes.errorbar(
                points[name],
                points["measured_loss"],
                yerr=points["measured_loss_se"].fillna(0.0),
                linestyle="none",
                elinewidth=0.8,
                markersize=5,
                color=style.family_color(str(family)),
                marker=style.family_marker(str(family)),
                markeredgecolor="white",
                markeredgewidth=0.5,
                label=str(family),
            )
        if len(drawn):
            worst = drawn.nlargest(1, "measured_loss").iloc[0]
            axes.annotate(
                short(str(worst["layer"])),
                (worst[name], worst["measured_loss"]),
                xytext=(-6, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=style.MUTED,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        style.log_ticks(axes.yaxis, *ends, margin=1.0)
        style.log_ticks(axes.xaxis, *wide, margin=1.0)
        axes.set_ylim(*ends)
        axes.set_xlim(*wide)
        style.dress(axes, title=name, x="predicted loss [nats/token]", y="measured loss [nats/token]")
        note = f"Spearman {method.spearman:.3f}\nmedian ratio {method.median_ratio:.2f}\n{method.layers} layers"
        if len(drawn) < len(frame):
            note += f"\n{len(frame) - len(drawn)} at or below 0 not drawn"
        axes.text(0.97, 0.04, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=style.INK)
        if frame["quantizer"].map(style.family).nunique() > 1:
            style.legend(axes, loc="upper left")
        axes.label_outer()
    for axes in list(panels.flat)[len(table) :]:
        axes.set_visible(False)
    return result
