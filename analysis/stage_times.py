"""Where the seconds went: one bar a stage, in the order of the run."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from analysis import style
from analysis.numbers import duration


def figure(seconds: Mapping[str, float]) -> Figure:
    """seconds: stage -> seconds, first stage on top. ValueError where it is empty."""
    if not seconds:
        raise ValueError("run.json: no field 'seconds' with a stage to draw")
    names, values = list(seconds), list(seconds.values())
    result = style.new_figure(0.5 + 0.26 * len(names))
    axes = result.subplots()
    bars = axes.barh(range(len(names)), values, height=0.62, color=style.ACCENT)
    axes.bar_label(bars, [duration(value) for value in values], padding=4, fontsize=8.5, color=style.INK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    style.dress(axes, x="seconds", grid="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, max(max(values), 1e-9) * 1.12)
    return result
