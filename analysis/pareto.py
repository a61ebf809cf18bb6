"""The Pareto front: loss against bits per weight, predicted for every budget, measured where it was measured.

Left, the predicted loss of the allocations beside their lower bound (the two coincide where the optimum is proven) and
the uniform plans; right, the KL divergence to the original with its standard error (1 s.e.). Both axes are logarithmic
in the loss: a straight line falling by 4 per bit is the slope of the bound 4^(-R)."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style

DENSE = 15  # points
UNIFORM = "uniform"  # the solver's name in rows of uniform plans


def figure(frame: pd.DataFrame) -> Figure:
    """frame: pareto.csv. Rows with solver `uniform` are the uniform plans, coloured by the family in their plan's name;
    every other solver is a series. An optional column `quantizer` names the quantizer of a uniform row."""
    result = style.new_figure(4.3)
    left, right = result.subplots(1, 2, sharex=True, sharey=True)
    mixed, uniform = frame[frame["solver"] != UNIFORM], frame[frame["solver"] == UNIFORM]
    solvers = list(dict.fromkeys(mixed["solver"]))
    bound = mixed.dropna(subset="lower_bound").sort_values("budget_bits_per_weight")
    if len(bound):
        best = bound.groupby("budget_bits_per_weight")["lower_bound"].max()
        left.plot(best.index, best, color=style.MUTED, linewidth=4, alpha=0.35, label="lower bound", zorder=1)
    looks = itertools.chain([(style.INK, "o")], itertools.cycle((color, "v") for color in style.SPARE_COLORS))
    for solver, (color, marker) in zip(solvers, looks, strict=False):
        label = "mixed" if len(solvers) == 1 else f"mixed, {solver}"
        rows = mixed[mixed["solver"] == solver].sort_values("budget_bits_per_weight")
        _series(left, right, rows, label=label, color=color, marker=marker, line="-")
    shown = pd.concat([frame["predicted_loss"], frame["measured_kl"]])
    shown = shown[shown > 0]
    families = uniform.assign(family=_families(uniform))
    for name, rows in families.groupby("family", sort=True):
        color, marker = style.family_color(str(name)), style.family_marker(str(name))
        _series(left, right, rows, label=f"uniform {name}", color=color, marker=marker, line="none")
    for axes, title, y in (
        (left, "Predicted loss, all budgets", "predicted loss [nats/token]"),
        (right, "Measured KL to the original", "KL [nats/token]"),
    ):
        axes.set_yscale("log")
        if len(shown):
            style.log_ticks(axes.yaxis, shown.min(), shown.max())
        style.dress(axes, title=title, x="bits per weight", y=y)
        axes.yaxis.set_tick_params(labelleft=True)
        if axes.has_data():
            style.legend(axes, loc="lower left")
        else:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=style.MUTED)
    return result


def _families(uniform: pd.DataFrame) -> pd.Series:
    names = uniform["quantizer"] if "quantizer" in uniform.columns else uniform["plan"].str.removeprefix("uniform-")
    return names.astype(str).map(style.family)


def _series(left: Axes, right: Axes, rows: pd.DataFrame, *, label: str, color: str, marker: str, line: str) -> None:
    """One series in both panels; a loss of zero (everything in 16 bits) has no place on a log axis."""
    predicted = rows[rows["predicted_loss"] > 0]
    look: dict[str, Any] = {"color": color, "linestyle": line, "linewidth": 1.3, "markersize": 5}
    if len(predicted):
        left.plot(
            predicted["budget_bits_per_weight"],
            predicted["predicted_loss"],
            label=label,
            markeredgecolor="white",
            markeredgewidth=0.5,
            # a dense front is a line; its points would hide it
            marker=marker if line == "none" or len(predicted) <= DENSE else "",
            **look,
        )
    measured = rows[rows["measured_kl"] > 0]
    if len(measured):
        right.errorbar(
            measured["budget_bits_per_weight"],
            measured["measured_kl"],
            yerr=measured["measured_kl_se"].fillna(0.0),
            capsize=2.5,
            elinewidth=1.0,
            label=label,
            marker=marker,
            **look,
        )
