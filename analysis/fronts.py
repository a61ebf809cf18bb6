"""Fronts of several palettes side by side: predicted loss against tokens per second, and against bytes.

A front is a line; uniform plans are markers of their family; measured points are rings where the step really ran. Loss
is logarithmic: a plan without loss, all in 16 bits, is an upright line at its speed and size."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style

OURS, UNFUSED, PUBLISHED = "all quantizers, fused", "all quantizers, not fused", "published palette, fused"
UNIFORM, MEASURED = "uniform", "measured"
LINES = {OURS: (style.INK, "-"), UNFUSED: (style.ACCENT, "--"), PUBLISHED: ("#d55e00", "-.")}
PANELS = {
    "latency_us": ("tokens_per_second", "Loss against speed", "tokens per second"),
    "memory_bytes": ("gigabytes", "Loss against bytes", "GB of the allocated layers"),
}


def figure(frame: pd.DataFrame) -> Figure:
    """frame: fronts.csv (curve, budget, plan, predicted_loss, memory_bytes, tokens_per_second). ValueError where no row
    has a loss."""
    frame = frame.assign(gigabytes=frame["memory_bytes"] / 1e9)
    if not (frame["predicted_loss"] > 0).any():
        raise ValueError("fronts: no plan has a predicted loss above 0")
    result = style.new_figure(4.6)
    for (budget, (x, title, label)), axes in zip(PANELS.items(), result.subplots(1, 2), strict=True):
        _panel(axes, frame[frame["budget"] == budget].dropna(subset=x), x)
        style.dress(axes, title=title, x=label, y="predicted loss [nats/token]")
    handles = {
        label: handle for axes in result.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    result.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5,
        labelcolor=style.INK,
    )  # fmt: skip
    return result


def _panel(axes: Axes, frame: pd.DataFrame, x: str) -> None:
    shown = frame[frame["predicted_loss"] > 0]
    for curve, (color, line) in LINES.items():
        rows = shown[shown["curve"] == curve].sort_values(x)
        if len(rows):
            axes.plot(rows[x], rows["predicted_loss"], color=color, linestyle=line, linewidth=1.6, label=curve)
    uniform = shown[shown["curve"] == UNIFORM]
    for family, rows in uniform.groupby(uniform["plan"].map(style.family), sort=True):
        look: dict[str, Any] = {"color": style.family_color(str(family)), "marker": style.family_marker(str(family))}
        axes.plot(rows[x], rows["predicted_loss"], linestyle="none", markersize=5, label=f"uniform {family}", **look)
    measured = shown[shown["curve"] == MEASURED]
    if len(measured):
        axes.plot(
            measured[x], measured["predicted_loss"], linestyle="none", marker="o", markersize=9,
            markerfacecolor="none", markeredgecolor=style.ACCENT, label="measured step", zorder=4,
        )  # fmt: skip
    for at in frame[(frame["predicted_loss"] == 0) & (frame["curve"] == UNIFORM)][x]:
        axes.axvline(at, color=style.MUTED, linewidth=1.0, linestyle=":")
        axes.annotate(
            "fp16", (at, 0.02), xycoords=("data", "axes fraction"), color=style.MUTED, fontsize=8,
            xytext=(3, 0), textcoords="offset points",
        )  # fmt: skip
    axes.set_yscale("log")
    if len(shown):
        style.log_ticks(axes.yaxis, shown["predicted_loss"].min(), shown["predicted_loss"].max())
