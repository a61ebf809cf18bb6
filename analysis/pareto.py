"""The Pareto front: loss against bits per weight, predicted for every budget, measured where it was measured.

Left, the predicted loss of the allocations beside their lower bound (the two coincide where the optimum is proven) and
the uniform plans; right, the KL divergence to the original with its standard error (1 s.e.). Both axes are logarithmic
in the loss: a straight line falling by 4 per bit is the slope of the bound 4^(-R)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style

UNIFORM = "uniform"  # the solver's name in rows of uniform plans


def figure(frame: pd.DataFrame) -> Figure:
    """frame: pareto.csv. Rows with solver `uniform` are the uniform plans, coloured by the family in their plan's name;
    every other solver is a series. An optional column `quantizer` names the quantizer of a uniform row."""
    result = style.new_figure(4.3)
    left, right = result.subplots(1, 2, sharex=True)
    mixed, uniform = frame[frame["solver"] != UNIFORM], frame[frame["solver"] == UNIFORM]
    solvers = list(dict.fromkeys(mixed["solver"]))
    bound = mixed.dropna(subset="lower_bound").sort_values("budget_bits_per_weight")
    if len(bound):
        best = bound.groupby("budget_bits_per_weight")["lower_bound"].max()
        left.plot(best.index, best, color=style.MUTED, linewidth=4, alpha=0.35, label="lower bound", zorder=1)
    looks = dict(zip(solvers, ((style.INK, "o"), *((color, "v") for color in style.SPARE_COLORS * len(solvers)))))
    for solver in solvers:
        color, marker = looks[solver]
        label = "mixed" if len(solvers) == 1 else f"mixed, {solver}"
        rows = mixed[mixed["solver"] == solver].sort_values("budget_bits_per_weight")
        _series(left, right, rows, label=label, color=color, marker=marker, line="-")
    families = uniform.assign(family=_families(uniform))
    for name, rows in families.groupby("family", sort=True):
        look = {"color": style.family_color(str(name)), "marker": style.family_marker(str(name))}
        _series(left, right, rows, label=f"uniform {name}", line="none", **look)
    for axes, title, y in (
        (left, "Predicted loss, all budgets", "predicted loss [nats/token]"),
        (right, "Measured KL to the original", "KL [nats/token]"),
    ):
        axes.set_yscale("log")
        style.dress(axes, title=title, x="bits per weight", y=y)
        if axes.has_data():
            style.legend(axes, loc="upper right")
        else:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=style.MUTED)
    return result


def _families(uniform: pd.DataFrame) -> pd.Series:
    names = uniform["quantizer"] if "quantizer" in uniform.columns else uniform["plan"].str.removeprefix("uniform-")
    return names.astype(str).map(style.family)


def _series(left: Axes, right: Axes, rows: pd.DataFrame, *, label: str, color: str, marker: str, line: str) -> None:
    """One series in both panels; a loss of zero (everything in 16 bits) has no place on a log axis."""
    predicted = rows[rows["predicted_loss"] > 0]
    look = {"color": color, "marker": marker, "linestyle": line, "linewidth": 1.2, "markersize": 5}
    if len(predicted):
        left.plot(
            predicted["budget_bits_per_weight"],
            predicted["predicted_loss"],
            label=label,
            markeredgecolor="white",
            markeredgewidth=0.5,
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
            **look,
        )
