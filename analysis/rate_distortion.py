r"""Rate-distortion of the measured quantizers against the Gaussian bound.

The distortion-rate function of a memoryless Gaussian source of unit variance is D(R) = 2^(-2R) = 4^(-R) (Shannon, 1959;
Cover and Thomas, Elements of Information Theory, section 10.3). Upper panel: distortion, log axis. Lower panel: the gap
10 log10(D 4^R) in dB, as the table holds it; nothing lies below zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style

FULL_PRECISION = 16  # bits


def figure(frame: pd.DataFrame) -> Figure:
    """frame: rate_distortion.csv (quantizer, bits_per_weight, distortion, gap_db, ...). A quantizer without distortion
    has no place on a log axis, and `fp16` would leave the others no room: both are left out. ValueError where no
    quantizer remains."""
    coded = frame[(frame["distortion"] > 0) & (frame["bits_per_weight"] < FULL_PRECISION)]
    drawn = coded.assign(family=lambda f: f["quantizer"].map(style.family))
    if drawn.empty:
        raise ValueError("rate_distortion.csv: column 'distortion': no positive value below 16 bits to draw")
    result = style.new_figure(6.0)
    upper, lower = result.subplots(2, 1, sharex=True, height_ratios=(2.1, 1))
    low, high = drawn["bits_per_weight"].min() - 0.25, drawn["bits_per_weight"].max() + 0.25
    rates = np.array([low, high])
    upper.plot(rates, 4.0**-rates, color=style.INK, linewidth=1.2, linestyle=(0, (5, 3)), label="bound $4^{-R}$")
    lower.axhline(0, color=style.INK, linewidth=1.2, linestyle=(0, (5, 3)))
    for name, rows in drawn.groupby("family", sort=True):
        rows = rows.sort_values("bits_per_weight")
        look: dict[str, Any] = {
            "color": style.family_color(str(name)),
            "marker": style.family_marker(str(name)),
            "markersize": 5,
            "linewidth": 1.1,
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
        }
        upper.plot(rows["bits_per_weight"], rows["distortion"], label=str(name), **look)
        lower.plot(rows["bits_per_weight"], rows["gap_db"], label=str(name), **look)
    upper.set_yscale("log")
    style.log_ticks(upper.yaxis, drawn["distortion"].min(), drawn["distortion"].max())
    upper.set_xlim(low, high)
    lower.set_ylim(bottom=min(-0.15, 1.1 * drawn["gap_db"].min()))
    style.dress(upper, title="Distortion on a Gaussian source", y="distortion")
    style.dress(lower, title="Gap to the bound", x="bits per weight", y="dB")
    style.legend(upper, loc="lower left")
    return result
