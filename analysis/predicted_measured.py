"""Predicted against measured loss of whole plans: the linearity theorem held against the model.

A point is a plan: its predicted loss (sum of sensitivity x distortion) and what was measured, the paired loss increase
and the KL to the original, with 1 standard error. The line is predicted = measured, the band within 25 % of it:
|predicted / measured - 1| <= 0.25."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style

BAND = 0.25
MEASURES = (("loss_increase", "loss_increase_se", "loss increase"), ("kl", "kl_se", "KL to the original"))
# kind of plan -> colour, marker, face
LOOKS = {
    "mixed": (style.INK, "o", style.INK),
    "uniform": (style.ACCENT, "D", "white"),
    "round to nearest": (style.FAMILY_COLORS["rtn"], "X", style.FAMILY_COLORS["rtn"]),
}


def figure(frame: pd.DataFrame) -> Figure:
    """frame: plan, predicted_loss, kl, kl_se, loss_increase, loss_increase_se, and `kind` (`mixed`, `uniform`, ...) for
    the colour. Plans without a prediction are left out, as are measured values <= 0 (log axes). ValueError where no
    plan remains."""
    drawn = frame[frame["predicted_loss"] > 0]
    values = pd.concat([drawn[column] for column, *_ in MEASURES] + [drawn["predicted_loss"]])
    values = values[values > 0]
    if drawn.empty or values.empty:
        raise ValueError("summary.csv: column 'predicted_loss': no plan with a positive prediction to draw")
    ends = np.array([values.min() / 1.6, values.max() * 1.6])
    result = style.new_figure(4.4)
    panels = result.subplots(1, 2, sharex=True, sharey=True)
    for axes, (column, error, title) in zip(panels, MEASURES, strict=True):
        # predicted / measured in [1 - BAND, 1 + BAND]
        axes.fill_between(
            ends, ends / (1 + BAND), ends / (1 - BAND), color=style.FAINT, alpha=0.6, linewidth=0, zorder=0
        )
        axes.plot(ends, ends, color=style.MUTED, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        style.log_ticks(axes.xaxis, *ends, margin=1.0)
        style.log_ticks(axes.yaxis, *ends, margin=1.0)
        points = drawn[drawn[column] > 0]
        for kind, rows in points.groupby("kind", sort=True):
            color, marker, face = LOOKS.get(str(kind), LOOKS["uniform"])
            axes.errorbar(
                rows["predicted_loss"],
                rows[column],
                yerr=rows[error].fillna(0.0),
                linestyle="none",
                marker=marker,
                markersize=6,
                color=color,
                markerfacecolor=face,
                elinewidth=1.0,
                capsize=2.5,
                label=str(kind),
                zorder=3,
            )
        for _, row in points.iterrows():
            axes.annotate(
                str(row["plan"]),
                (row["predicted_loss"], row[column]),
                xytext=(8, -9),
                textcoords="offset points",
                fontsize=7.5,
                color=style.MUTED,
            )
        style.dress(axes, title=f"Measured: {title}", x="predicted loss [nats/token]", y=f"{title} [nats/token]")
        if len(points):
            style.legend(axes, loc="upper left")
    return result
