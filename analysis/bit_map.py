"""Map of bits by layer: one column per block, one row per layer type, colour is bits per weight; one panel per plan.

The strip at the foot of a cell is the family of its quantizer, so that the map tells `tcq-4` from `vq-4`. Layers that
share a cell (the experts of a mixture) show the mean of their bits; a cell without a layer stays blank. Dots that a
line joins are layers that are one product."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis import style
from analysis.layer_names import ordered_types, with_place

# Light = few bits, dark = many: one hue, monotone in lightness, so that it survives grey print. Below 50
# steps matplotlib keeps the colour bar a vector drawing; a step is less than a tenth of a bit.
COLORS = LinearSegmentedColormap.from_list(
    "bits", ["#f3f6f1", "#cfe3d6", "#93c4c0", "#4f98ad", "#2a6594", "#1b3a6b", "#141c3f"], N=48
)
CELL = 0.27  # inches; below 0.22 inches of width a rate such as 3.25 is not legible and is left out
LEGIBLE = 0.22


def figure(frame: pd.DataFrame) -> Figure:
    """frame: plan, layer, quantizer, bits_per_weight, and optionally unit, the same of layers of a plan that are one
    product; layers outside the blocks are left out. Panels in the order of the frame. The colour scale spans the rates
    below 16 bits. ValueError where no layer is in a block."""
    placed = with_place(frame)
    placed = placed[placed["block"] >= 0]
    if placed.empty:
        raise ValueError("bit map: no layer inside a block")
    placed = placed.assign(family=placed["quantizer"].map(style.family))
    plans = list(dict.fromkeys(placed["plan"]))
    types, blocks = ordered_types(placed["type"]), sorted(set(placed["block"]))
    families = sorted(set(placed["family"]))
    coded = placed.loc[placed["bits_per_weight"] < 16, "bits_per_weight"]
    values = coded if len(coded) else placed["bits_per_weight"]
    low = np.floor(2 * values.min()) / 2
    norm = Normalize(low, max(np.ceil(2 * values.max()) / 2, low + 1), clip=True)
    result = style.new_figure(0.95 + len(plans) * (CELL * len(types) + 0.42))
    panels = result.subplots(len(plans), 1, sharex=True, squeeze=False)[:, 0]
    for axes, plan in zip(panels, plans, strict=True):
        _panel(axes, placed[placed["plan"] == plan], types, blocks, norm)
        axes.set_title(plan, loc="left", fontsize=10, fontweight="bold", color=style.INK, pad=6)
    panels[-1].set_xlabel("block", color=style.INK)
    bar = result.colorbar(
        ScalarMappable(norm, COLORS), ax=list(panels), label="bits per weight", aspect=16 * len(plans), pad=0.01
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=style.MUTED, labelcolor=style.INK, length=3)
    handles = [Patch(color=style.family_color(name), label=name) for name in families]
    result.legend(
        handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=8.5, labelcolor=style.INK
    )
    return result


def _panel(axes: Axes, rows: pd.DataFrame, types: list[str], blocks: list[int], norm: Normalize) -> None:
    """One plan: cells, their rates where legible, the strips of the families."""
    cells = rows.groupby(["type", "block"], sort=False).agg(
        bits=("bits_per_weight", "mean"), family=("family", "first")
    )
    grid = np.full((len(types), len(blocks)), np.nan)  # (types, blocks)
    column = {block: i for i, block in enumerate(blocks)}
    row = {name: i for i, name in enumerate(types)}
    legible = (style.WIDTH - 1.9) / len(blocks) >= LEGIBLE
    for (name, block), bits, family in zip(cells.index, cells["bits"], cells["family"], strict=True):
        i, j = row[name], column[block]
        grid[i, j] = bits
        axes.add_patch(
            Rectangle((j - 0.5, i + 0.36), 1, 0.14, facecolor=style.family_color(family), edgecolor="none", zorder=2)
        )
        if legible:
            dark = norm(bits) > 0.5
            axes.text(
                j, i - 0.06, f"{bits:.3g}", ha="center", va="center", fontsize=6.3, color="white" if dark else style.INK
            )
    axes.pcolormesh(
        np.arange(len(blocks) + 1) - 0.5,
        np.arange(len(types) + 1) - 0.5,
        np.ma.masked_invalid(grid),
        cmap=COLORS,
        norm=norm,
        edgecolors="white",
        linewidth=0.8,
        zorder=1,
    )
    if "unit" in rows.columns:
        for _, unit in rows.groupby("unit", sort=False):
            at = sorted(row[name] for name in unit["type"])
            x = [column[unit["block"].iloc[0]] - 0.36] * len(at)
            if len(at) > 1:
                axes.plot(x, at, color=style.INK, linewidth=1.1, marker="o", markersize=2.6, zorder=3)
    axes.set_ylim(len(types) - 0.5, -0.5)
    axes.set_yticks(range(len(types)), types)
    step = max(1, len(blocks) // 30)
    axes.set_xticks(range(0, len(blocks), step), [str(block) for block in blocks[::step]])
    axes.tick_params(length=0, labelcolor=style.INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
