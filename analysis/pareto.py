"""The Pareto front: loss against bits per weight and against speed, predicted for every budget, measured where it was.

First, the predicted loss of the allocations beside their lower bound (the two coincide where the optimum is proven) and
the uniform plans; then, as far as pareto.csv has them, the KL divergence to the original with its standard error
(1 s.e.), the predicted loss against tokens per second, and the gap to the information bound in dB: how far above ideal
codes, D = 4^-b, that spend the same bytes. A straight line falling by 4 per bit is the slope of that bound."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style

DENSE = 15  # points
UNIFORM = "uniform"  # the solver's name in rows of uniform plans
MEMORY, LATENCY = "memory_bytes", "latency_us"
LOSS, BITS, KL = "predicted loss [nats/token]", "bits per weight", "KL [nats/token]"


def figure(frame: pd.DataFrame) -> Figure:
    """frame: pareto.csv. Rows with solver `uniform` are the uniform plans, coloured by the family in their plan's name;
    every other solver is a series. Optional columns: `quantizer`, that of a uniform row; `budget`, the cost that a
    row's budget limits (default memory_bytes); `tokens_per_second`, `information_bound` and `knee`."""
    frame = _complete(frame)
    memory = frame[frame["budget"] == MEMORY]
    speed = frame[(frame["budget"] == LATENCY) & (frame["tokens_per_second"] > 0)]
    ideal = frame[frame["budget"].isin((MEMORY, LATENCY)) & (frame["information_bound"] > 0)]
    measured = frame["measured_kl"].notna().any() or not (len(speed) or len(ideal))
    panels = ["predicted"] * bool(len(memory)) + ["measured"] * bool(measured)
    panels += ["speed"] * bool(len(speed)) + ["gap"] * bool(len(ideal))
    columns = 2 if len(panels) in (2, 4) else max(len(panels), 1)
    rows = -(-len(panels) // columns)
    result = style.new_figure(4.3 * max(rows, 1))
    for name, axes in zip(panels, result.subplots(rows or 1, columns, squeeze=False).flat, strict=True):
        if name == "predicted":
            _loss_panel(axes, memory, "budget_bits_per_weight", "Predicted loss, all budgets", BITS)
        elif name == "speed":
            _loss_panel(axes, speed, "tokens_per_second", "Predicted loss against speed", "tokens per second")
        elif name == "gap":
            _gap_panel(axes, ideal)
        else:
            _measured_panel(axes, memory)
    return result


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with every optional column."""
    absent: dict[str, Any] = {"tokens_per_second": np.nan, "information_bound": np.nan, "knee": False, "budget": MEMORY}
    frame = frame.assign(**{name: value for name, value in absent.items() if name not in frame.columns})
    # rows that another tool added say neither
    return frame.assign(budget=frame["budget"].fillna(MEMORY), knee=frame["knee"].eq(True))


def _loss_panel(axes: Axes, frame: pd.DataFrame, x: str, title: str, label: str) -> None:
    bound = frame[frame["solver"] != UNIFORM].dropna(subset="lower_bound").sort_values(x)
    if len(bound):
        best = bound.groupby(x)["lower_bound"].max()
        axes.plot(best.index, best, color=style.MUTED, linewidth=4, alpha=0.35, label="lower bound", zorder=1)
    shown = frame[frame["predicted_loss"] > 0]
    for name, color, marker, line, rows in _series(shown):
        rows = rows.sort_values(x)
        # a dense front is a line; its points would hide it
        drawn = marker if line == "none" or len(rows) <= DENSE else ""
        _plot(axes, rows[x], rows["predicted_loss"], label=name, color=color, marker=drawn, linestyle=line)
    knees = shown[shown["knee"]]
    if len(knees):
        look: dict[str, Any] = {"color": style.ACCENT, "marker": "D", "linestyle": "none", "markerfacecolor": "white"}
        axes.plot(knees[x], knees["predicted_loss"], label="knee", markersize=7, zorder=4, **look)
    # a front falls with bits and rises with speed: the free corner
    corner = "lower left" if x == "budget_bits_per_weight" else "lower right"
    _finish(axes, title, label, LOSS, shown["predicted_loss"], corner)


def _measured_panel(axes: Axes, frame: pd.DataFrame) -> None:
    shown = frame[frame["measured_kl"] > 0]
    for name, color, marker, line, rows in _series(shown):
        rows = rows.sort_values("budget_bits_per_weight")
        axes.errorbar(
            rows["budget_bits_per_weight"],
            rows["measured_kl"],
            yerr=rows["measured_kl_se"].fillna(0.0),
            color=color,
            marker=marker,
            linestyle=line,
            linewidth=1.3,
            markersize=5,
            capsize=2.5,
            elinewidth=1.0,
            label=name,
        )
    _finish(axes, "Measured KL to the original", BITS, KL, shown["measured_kl"], "lower left")


def _gap_panel(axes: Axes, frame: pd.DataFrame) -> None:
    bits = frame["bits_per_weight"] if "bits_per_weight" in frame.columns else frame["budget_bits_per_weight"]
    shown = frame.assign(x=bits)[frame["predicted_loss"] > 0].sort_values("x")
    shown = shown.assign(gap_db=10.0 * np.log10(shown["predicted_loss"] / shown["information_bound"]))
    two = shown["budget"].nunique() > 1
    for budget, words, line in ((MEMORY, "memory budget", "-"), (LATENCY, "latency budget", "--")):
        part = shown[(shown["budget"] == budget) & (shown["solver"] != UNIFORM)]
        if len(part):
            name = f"mixed, {words}" if two else "mixed"
            _plot(axes, part["x"], part["gap_db"], label=name, color=style.INK, marker="", linestyle=line)
    uniform = shown[shown["solver"] == UNIFORM].drop_duplicates("plan")
    for name, color, marker, line, rows in _series(uniform):
        # the other panels say which family this is
        _plot(axes, rows["x"], rows["gap_db"], label=f"_{name}", color=color, marker=marker, linestyle=line)
    style.dress(axes, title="Gap to the information bound", x=BITS, y="loss above ideal codes [dB]")
    axes.set_ylim(bottom=min(0.0, float(shown["gap_db"].min()) if len(shown) else 0.0))
    style.legend(axes, loc="best")


def _series(frame: pd.DataFrame) -> Iterator[tuple[str, str, str, str, pd.DataFrame]]:
    """(label, colour, marker, line, rows): the mixed plans of each solver, then the uniform plans of each family."""
    mixed, uniform = frame[frame["solver"] != UNIFORM], frame[frame["solver"] == UNIFORM]
    solvers = list(dict.fromkeys(mixed["solver"]))
    looks = itertools.chain([(style.INK, "o")], itertools.cycle((color, "v") for color in style.SPARE_COLORS))
    for solver, (color, marker) in zip(solvers, looks, strict=False):
        label = "mixed" if len(solvers) == 1 else f"mixed, {solver}"
        yield label, color, marker, "-", mixed[mixed["solver"] == solver]
    for name, rows in uniform.assign(family=_families(uniform)).groupby("family", sort=True):
        look = (style.family_color(str(name)), style.family_marker(str(name)))
        yield f"uniform {name}", *look, "none", rows


def _plot(axes: Axes, x: pd.Series, y: pd.Series, *, label: str, **look: Any) -> None:
    axes.plot(x, y, label=label, markeredgecolor="white", markeredgewidth=0.5, linewidth=1.3, markersize=5, **look)


def _finish(axes: Axes, title: str, x: str, y: str, values: pd.Series, corner: str) -> None:
    """A log axis with its legend; a loss of zero (everything in 16 bits) has no place on it."""
    axes.set_yscale("log")
    if len(values):
        style.log_ticks(axes.yaxis, values.min(), values.max())
    style.dress(axes, title=title, x=x, y=y)
    if axes.has_data():
        style.legend(axes, loc=corner)
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=style.MUTED)


def _families(uniform: pd.DataFrame) -> pd.Series:
    names = uniform["quantizer"] if "quantizer" in uniform.columns else uniform["plan"].str.removeprefix("uniform-")
    return names.astype(str).map(style.family)
