r"""Rate-distortion of the measured quantizers between the Gaussian bound and the limit of scalar codes.

The distortion-rate function of a memoryless Gaussian source of unit variance is D(R) = 2^(-2R) = 4^(-R) (Shannon, 1959;
Cover and Thomas, Elements of Information Theory, section 10.3). Upper panel: distortion, log axis. Lower panel: the gap
10 log10(D 4^R) in dB; nothing lies below zero. The dotted curve is the best that one weight at a time can do with
entropy coding (`analysis.entropy_coded`), hollow markers are figures published by others."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.entropy_coded import distortion_at

FULL_PRECISION = 16  # bits
PUBLISHED = "published"
SCALAR = "entropy-coded scalar"


def figure(frame: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """frame: rate_distortion.csv (quantizer, bits_per_weight, distortion, ...); published: these columns, measured by
    others, drawn as far as the rates of `frame` go. A quantizer without distortion has no place on a log axis, and
    `fp16` would leave the others no room: both are left out. ValueError where no quantizer remains."""
    drawn = drawable(frame)
    if drawn.empty:
        raise ValueError("rate_distortion.csv: column 'distortion': no positive value below 16 bits to draw")
    result = style.new_figure(6.0)
    upper, lower = result.subplots(2, 1, sharex=True, height_ratios=(2.1, 1))
    first, last = drawn["bits_per_weight"].min(), drawn["bits_per_weight"].max()
    low, high = first - 0.25, last + 0.25
    draw_limits(upper, lower, low, high)
    if published is not None:
        inside = published["bits_per_weight"].between(first, last)
        draw_published(upper, lower, drawable(published[inside]))
    for family, members in drawn.groupby("family", sort=True):
        look: dict[str, Any] = {
            "color": style.family_color(str(family)),
            "marker": style.family_marker(str(family)),
            "markersize": 5,
            "linewidth": 1.1,
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
        }
        # members of one group size are a curve; the family has one entry in the legend
        label = str(family)
        for _, rows in members.groupby("series", sort=True):
            upper.plot(rows["bits_per_weight"], rows["distortion"], label=label, **look)
            lower.plot(rows["bits_per_weight"], rows["gap_db"], label=label, **look)
            label = "_"
    upper.set_yscale("log")
    style.log_ticks(upper.yaxis, drawn["distortion"].min(), drawn["distortion"].max())
    upper.set_xlim(low, high)
    lower.set_ylim(bottom=min(-0.15, 1.1 * drawn["gap_db"].min()))
    style.dress(upper, title="Distortion on a Gaussian source", y="distortion")
    style.dress(lower, title="Gap to the bound", x="bits per weight", y="dB")
    style.legend(upper, loc="lower left", ncols=2)
    return result


def drawable(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with a place on the axes, by rate, with their family, their series (family and group size) and gap."""
    coded = frame[(frame["distortion"] > 0) & (frame["bits_per_weight"] < FULL_PRECISION)]
    return coded.assign(
        family=coded["quantizer"].map(style.family),
        series=coded["quantizer"].map(lambda name: re.sub(r"-[\d.]+(?=-|$)", "", name, count=1)),
        gap_db=10 * np.log10(coded["distortion"]) + 20 * np.log10(2) * coded["bits_per_weight"],
    ).sort_values(["bits_per_weight", "quantizer"])


def draw_limits(upper: Axes, lower: Axes, low: float, high: float) -> None:
    """D(R) = 4^-R, dashed, and the entropy-coded scalar limit, dotted, between two rates."""
    rates = np.array([low, high])
    upper.plot(rates, 4.0**-rates, color=style.INK, linewidth=1.2, linestyle=(0, (5, 3)), label="bound $4^{-R}$")
    lower.axhline(0, color=style.INK, linewidth=1.2, linestyle=(0, (5, 3)))
    rates = np.linspace(max(low, 0.05), min(high, 10.0), 100)
    distortion = distortion_at(rates)
    look: dict[str, Any] = {"color": style.MUTED, "linewidth": 1.2, "linestyle": (0, (1, 2)), "label": SCALAR}
    upper.plot(rates, distortion, **look)
    lower.plot(rates, 10 * np.log10(distortion * 4.0**rates), **look)


def draw_published(upper: Axes, lower: Axes, drawn: pd.DataFrame) -> None:
    """Hollow markers in the look of their family, under the measured ones; one entry in the legend."""
    for family, rows in drawn.groupby("family", sort=True):
        look: dict[str, Any] = {
            "marker": style.family_marker(str(family)),
            "markersize": 9,
            "linestyle": "none",
            "markerfacecolor": "none",
            "markeredgecolor": style.family_color(str(family)),
            "markeredgewidth": 0.9,
        }
        upper.plot(rows["bits_per_weight"], rows["distortion"], label=f"_{PUBLISHED} {family}", **look)
        lower.plot(rows["bits_per_weight"], rows["gap_db"], label=f"_{PUBLISHED} {family}", **look)
    if len(drawn):
        look = {"marker": "o", "markersize": 9, "linestyle": "none", "markerfacecolor": "none"}
        upper.plot([], [], label=PUBLISHED, markeredgecolor=style.MUTED, markeredgewidth=0.9, **look)
