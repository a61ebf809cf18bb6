"""Products from packed codes against the memory roof: bytes of codes a second over their bytes, of kernels.json.

Left the roof is the time that an empty product takes (a slanted line: bytes over microseconds), right the plain read of
the same run; a point below both waits for something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style


def figure(content: Mapping[str, Any], *, batch: int = 1) -> Figure:
    """content: of kernels.json. One line a quantizer (and kernel), its rate at its end, a point a layer. ValueError
    where no row has the batch."""
    rows = pd.DataFrame(content["rows"])
    rows = rows[rows.batch == batch] if len(rows) else rows
    if not len(rows):
        raise ValueError(f"kernels.json: no row of batch {batch}")
    limit, least = float(content["read_gigabytes_per_s"]), float(rows.latency_us.min())
    low, high = rows.weight_bytes.min() / 1e6 / 1.5, rows.weight_bytes.max() / 1e6 * 1.5
    result = style.new_figure(3.6)
    axes = result.subplots()
    roof = np.geomspace(low, high, 100)
    (drawn,) = axes.plot(roof, np.minimum(limit, 1e3 * roof / least), color=style.MUTED, linewidth=1.2, label="roof")
    legend = {"roof": drawn}
    axes.annotate(
        f"plain read {limit:.0f} GB/s", (high, limit), ha="right", va="bottom", fontsize=8.5, color=style.MUTED
    )
    for (quantizer, kernel), own in rows.groupby(["quantizer", "kernel"], sort=False):
        by_size = own.sort_values("weight_bytes")
        family = style.family(str(quantizer))
        (drawn,) = axes.plot(
            by_size.weight_bytes / 1e6, by_size.gigabytes_per_s, color=style.family_color(family),
            marker=style.family_marker(family), markersize=4, linewidth=0.8, label=f"{quantizer}, {kernel}",
        )  # fmt: skip
        legend.setdefault(f"{family}, {kernel}", drawn)
        rate = str(quantizer).removeprefix(family).removeprefix("-")
        last = by_size.iloc[-1]
        axes.annotate(
            rate, (last.weight_bytes / 1e6, last.gigabytes_per_s), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=style.family_color(family),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    style.log_ticks(axes.xaxis, low, high)
    style.log_ticks(axes.yaxis, float(rows.gigabytes_per_s.min()), limit)
    style.dress(axes, x="megabytes of codes", y=f"GB/s, batch {batch}")
    style.legend(axes, handles=list(legend.values()), labels=list(legend), loc="lower right")
    return result
