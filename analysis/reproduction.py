r"""The reproduction of Q-Palette as tables and figures: reproduction.csv and the tables of experiments.reproduce.

reproduction.csv: experiment, case, quantity, unit, published (as printed), ours, difference, within, verdict, note.
The figures: loss against bits (paper_memory), loss against speed (paper_latency), ideal codes and palettes over
reverse water-filling (paper_theory), perplexity against loss with the fitted law (paper_perplexity)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.numbers import absent, fixed, significant

AGREES = ("agrees", "better")
LOSS = "predicted loss, nats/token"
COLORS = (style.ACCENT, "#d55e00", "#009e73", "#cc79a7")
# columns of a printed table that no reader compares
HIDDEN = ("lower_bound", "uniform_quantizer", "kind")


def count(comparisons: pd.DataFrame) -> str:
    """How many published numbers agree, in words."""
    verdict = comparisons.verdict[comparisons.published.astype(str) != ""]
    parts = [f"{int((verdict == word).sum())} {text}" for word, text in WORDS.items() if (verdict == word).any()]
    return f"{len(verdict)} published numbers: {', '.join(parts) or 'none'}"


WORDS = {
    "agrees": "agree",
    "better": "are bettered (a lower loss, perplexity or time)",
    "differs": "differ",
    "skipped": "skipped",
}


def markdown(comparisons: pd.DataFrame, tables: Mapping[str, pd.DataFrame], skipped: Mapping[str, str]) -> str:
    """A section an experiment: published | ours | difference, its own table, or why it was skipped."""
    names = list(dict.fromkeys([*comparisons.experiment, *tables, *skipped]))
    parts = []
    for name in names:
        own = comparisons[comparisons.experiment == name]
        section = [f"## {name}"]
        if name in skipped:
            section.append(f"Skipped: {skipped[name]}")
        if len(own):
            section.append(comparison_table(own))
        if name in tables:
            section.append(plain_table(tables[name]))
        parts.append("\n\n".join(section))
    return "\n\n".join(parts)


def comparison_table(own: pd.DataFrame) -> str:
    """published | ours | difference of one experiment."""
    lines = ["| case | quantity | published | ours | difference | verdict |", "|---|---|---|---|---|---|"]
    for row in own.to_dict("records"):
        quantity = f"{row['quantity']}, {row['unit']}" if row["unit"] else row["quantity"]
        verdict = f"{row['verdict']}: {row['note']}" if row["note"] else row["verdict"]
        lines.append(
            f"| {row['case']} | {quantity} | {row['published'] or '-'} | {number(row['ours'])} | "
            f"{difference(row['difference'], row['published'])} | {verdict} |"
        )
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Seven significant digits, without trailing zeros: the tables of others are held against ours."""
    return "-" if value is None or absent(value) else f"{value:.7g}"


def difference(off: float, published: str) -> str:
    """ours - published, and in percent of the published."""
    if absent(off):
        return "-"
    return f"{off:+.2g} ({100 * off / float(published):+.2f} %)"


def plain_table(frame: pd.DataFrame) -> str:
    """Any table, numbers to five significant digits; a column without a number is left out."""
    shown = frame[[name for name in frame.columns if name not in HIDDEN and not frame[name].isin(["", math.nan]).all()]]
    lines = ["| " + " | ".join(shown.columns) + " |", "|" + "---|" * len(shown.columns)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in shown.itertuples(index=False)]
    return "\n".join(lines)


def cell(value: object) -> str:
    """A number to five significant digits, a word as it is, a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return "-" if np.isnan(value) else f"{value:.5g}"
    return str(value)


def figures(comparisons: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """name -> figure of every experiment whose table is there and has something to draw."""
    with matplotlib.rc_context(style.SETTINGS):
        made = {
            name: draw(tables[name])
            for name, draw in FIGURES.items()
            if name in tables and tables[name].get("objective", pd.Series(dtype=float)).notna().any()
        }
        if (comparisons.verdict.isin((*AGREES, "differs"))).any():
            made["paper_agreement"] = agreement_figure(comparisons)
    return made


def memory_figure(frame: pd.DataFrame) -> Figure:
    """Loss against bits per weight: optimum, best uniform plan within the bytes, ideal codes."""
    figure = style.new_figure(3.6)
    axes = figure.subplots()
    series = (("objective", "optimum (proven)", style.INK, "o"), ("uniform", "best uniform plan", "#d55e00", "s"))
    for column, label, color, marker in series:
        axes.plot(frame.bits, frame[column], color=color, marker=marker, markersize=4, linewidth=1.2, label=label)
    axes.plot(frame.bits, frame.ideal, color=style.MUTED, linestyle="--", linewidth=1.2, label="ideal codes")
    axes.set_yscale("log")
    values = frame[["objective", "uniform", "ideal"]].to_numpy(float)
    style.log_ticks(axes.yaxis, float(np.nanmin(values)), float(np.nanmax(values)))
    style.dress(axes, title="Memory budgets", x="bits per weight", y=LOSS)
    style.legend(axes)
    return figure


def latency_figure(frame: pd.DataFrame) -> Figure:
    """Loss against speed, a line a variant."""
    figure = style.new_figure(3.6)
    axes = figure.subplots()
    solved = frame[frame.objective.notna()]
    for at, (variant, rows) in enumerate(solved.groupby("variant", sort=False)):
        axes.plot(
            rows.speed, rows.objective, color=COLORS[at % len(COLORS)], marker="o^sD"[at % 4], markersize=4,
            linestyle="--" if at > 1 else "-", linewidth=1.2, label=str(variant),
        )  # fmt: skip
    axes.set_yscale("log")
    style.log_ticks(axes.yaxis, float(solved.objective.min()), float(solved.objective.max()))
    style.dress(axes, title="Latency budgets", x="tokens per second, batch 1", y=LOSS)
    style.legend(axes)
    return figure


def theory_figure(frame: pd.DataFrame) -> Figure:
    """What every code loses over reverse water-filling at the same bits, a panel a rate."""
    rates = sorted(set(frame.bits[frame.objective.notna()]))
    codes = list(dict.fromkeys(frame.code))
    figure = style.new_figure(1.2 + 0.24 * len(codes))
    for axes, bits in zip(figure.subplots(1, len(rates), sharey=True, squeeze=False)[0], rates, strict=True):
        own = frame[frame.bits == bits].set_index("code").over_ideal.reindex(codes)
        places = np.arange(len(codes))
        axes.barh(places, own.fillna(0.0) - 1.0, left=1.0, color=style.ACCENT, height=0.6)
        for place, value in zip(places, own, strict=True):
            axes.annotate(
                " none" if absent(value) else f" {fixed(value, 3)}",
                (1.0 if absent(value) else value, place),
                va="center",
                fontsize=8,
                color=style.INK,
            )
        axes.set_yticks(places, codes)
        axes.set_xlim(1.0, 1.25 * (float(own.max()) - 1.0) + 1.0 + 1e-9)
        axes.invert_yaxis()
        style.dress(axes, title=f"{bits:g} bits", x="loss over the ideal", grid="x")
    return figure


def perplexity_figure(frame: pd.DataFrame) -> Figure:
    """Published perplexities against predicted loss, and the law."""
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    loss = frame.objective.to_numpy(float)
    at = int(np.argmax(loss))
    # the law is an exponential through its own values: two of them give it back
    base_loss = np.linspace(0.0, 1.1 * loss.max(), 50)
    other = int(np.argmin(loss))
    if loss[at] > loss[other]:
        slope = np.log(frame.law.iloc[at] / frame.law.iloc[other]) / (loss[at] - loss[other])
        law = frame.law.iloc[at] * np.exp(slope * (base_loss - loss[at]))
        axes.plot(base_loss, law, color=style.MUTED, linewidth=1.2, label=f"{law[0]:.2f} exp({slope:.3f} x loss)")
    axes.plot(loss, frame.published, "o", color=style.INK, markersize=5, label="published")
    for name, x, y in zip(frame.plan, loss, frame.published, strict=True):
        axes.annotate(name, (x, y), xytext=(6, -9), textcoords="offset points", fontsize=8, color=style.INK)
    style.dress(axes, title="Perplexity is predicted", x=LOSS, y="perplexity")
    style.legend(axes)
    return figure


def agreement_figure(comparisons: pd.DataFrame) -> Figure:
    """ours / published - 1 of every published number, in percent."""
    own = comparisons[comparisons.verdict.isin((*AGREES, "differs"))]
    own = own[own.published.astype(str) != ""]
    percent = 100.0 * own.difference.astype(float) / own.published.astype(float)
    figure = style.new_figure(1.0 + 0.2 * len(own))
    axes = figure.subplots()
    places = np.arange(len(own))
    colors = [style.ACCENT if verdict in AGREES else "#d55e00" for verdict in own.verdict]
    axes.scatter(percent, places, c=colors, s=22)
    axes.axvline(0.0, color=style.MUTED, linewidth=0.8)
    axes.set_yticks(places, (own.case + ": " + own.quantity).tolist(), fontsize=7.5)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.invert_yaxis()
    largest = significant(float(percent.abs().max()), 2)
    style.dress(axes, title=f"Ours against published, at most {largest} % apart", x="difference, %", grid="x")
    return figure


FIGURES: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "paper_memory": memory_figure,
    "paper_latency": latency_figure,
    "paper_theory": theory_figure,
    "paper_perplexity": perplexity_figure,
}
