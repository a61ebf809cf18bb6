"""What the rotation does to the weights, and where the Gaussian table of distortions does not hold.

Kurtosis E x^4 / (E x^2)^2 of a layer's weights before and after the rotation; a Gaussian has 3. Second figure: the
distortion measured on the rotated layer over that of the table, which was measured on a Gaussian source."""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.layer_names import ordered_types, short, with_place

GAUSSIAN = 3.0
AGREES = 0.03  # the accuracy asked of the table itself


def _positions(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, float, float]]]:
    """The frame with a column `x`: layers by type, then block, a gap between types; and (type, first x, last x)."""
    placed = with_place(frame)
    order = list(dict.fromkeys(placed.sort_values("block", kind="stable")["layer"]))
    place: dict[str, float] = {}
    spans: list[tuple[str, float, float]] = []
    for name in ordered_types(placed["type"]):
        members = set(placed.loc[placed["type"] == name, "layer"])
        first = len(place) + 2.0 * len(spans)
        place |= {layer: first + i for i, layer in enumerate(layer for layer in order if layer in members)}
        spans.append((name, first, first + len(members) - 1))
    return placed.assign(x=placed["layer"].map(place)), spans


def _name_types(axes: Axes, spans: list[tuple[str, float, float]]) -> None:
    axes.set_xticks([(first + last) / 2 for _, first, last in spans], [name for name, _, _ in spans])
    axes.tick_params(axis="x", length=0)
    for (_, _, last), (_, first, _) in itertools.pairwise(spans):
        axes.axvline((last + first) / 2, color=style.FAINT, linewidth=0.8, zorder=0)


def figure(frame: pd.DataFrame) -> Figure:
    """frame: gaussianity.csv (layer, kurtosis_before, kurtosis_after). One vertical line a layer, before to after."""
    # an all-zero weight has kurtosis 0 and no place on a log axis
    placed, spans = _positions(frame[(frame["kurtosis_before"] > 0) & (frame["kurtosis_after"] > 0)])
    if placed.empty:
        raise ValueError("gaussianity.csv: column 'kurtosis_after': no positive value to draw")
    result = style.new_figure(3.6)
    axes = result.subplots()
    axes.axhline(GAUSSIAN, color=style.INK, linewidth=1, linestyle=(0, (5, 3)), label="Gaussian: 3", zorder=1)
    axes.vlines(
        placed["x"], placed["kurtosis_after"], placed["kurtosis_before"], color=style.FAINT, linewidth=1, zorder=1
    )
    axes.plot(
        placed["x"],
        placed["kurtosis_before"],
        linestyle="none",
        marker="o",
        markersize=3.2,
        markerfacecolor="white",
        markeredgecolor=style.FAMILY_COLORS["rtn"],
        markeredgewidth=0.9,
        label="before rotation",
    )
    axes.plot(
        placed["x"],
        placed["kurtosis_after"],
        linestyle="none",
        marker="o",
        markersize=3.2,
        color=style.ACCENT,
        label="after rotation",
    )
    axes.set_yscale("log")
    values = placed[["kurtosis_before", "kurtosis_after"]]
    style.log_ticks(axes.yaxis, min(values.min().min(), GAUSSIAN), max(values.max().max(), GAUSSIAN))
    style.dress(axes, title="Kurtosis of the weights, layers by type and block", y="kurtosis", grid="y")
    _name_types(axes, spans)
    style.legend(axes, loc="upper center", ncols=3)
    axes.margins(y=0.12)
    return result


def ratio_figure(frame: pd.DataFrame) -> Figure:
    """frame: layer_distortion.csv (layer, quantizer, ratio). A point is a layer and quantizer, coloured by family; the
    eight layers farthest from 1 are named, where that is more than 3 %."""
    placed, spans = _positions(frame)
    result = style.new_figure(3.4)
    axes = result.subplots()
    axes.axhline(1, color=style.INK, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    for name, rows in placed.groupby(placed["quantizer"].map(style.family), sort=True):
        axes.plot(
            rows["x"],
            rows["ratio"],
            linestyle="none",
            marker=style.family_marker(str(name)),
            markersize=3.6,
            color=style.family_color(str(name)),
            label=str(name),
        )
    far = placed[(placed["ratio"] - 1).abs() > AGREES]
    for _, row in worst_layers(far, 8).iterrows():
        axes.annotate(
            short(str(row["layer"])),
            (row["x"], row["ratio"]),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=7.5,
            color=style.MUTED,
        )
    style.dress(axes, title="Measured distortion over the Gaussian table", y="ratio", grid="y")
    _name_types(axes, spans)
    style.legend(axes, loc="best", ncols=4)
    return result


def worst_layers(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """The `count` layers whose worst ratio is farthest from 1, each with that quantizer's row, worst first."""
    away = frame.assign(away=(frame["ratio"] - 1).abs()).sort_values("away", ascending=False, kind="stable")
    return away.drop_duplicates("layer").head(count).drop(columns="away")
