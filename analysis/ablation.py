r"""An ablation as a table, a figure and a page: ablation.csv of experiments.ablate, a row per variant and budget.

Columns: study, variant, budget; predicted_loss and lower_bound (nats/token, empty where nothing predicts them), gap,
bits_per_weight, memory_bytes, latency_us, runtime_s; with a measurement kl, kl_se and the paired difference to the
study's baseline under the same budget, difference and difference_se; `reason` where a variant has no result."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.numbers import significant, with_error

ROW = 0.26  # inches of a variant in the figure
PANELS = 3  # budgets in the figure: the first, the middle and the last of more


def figure(frame: pd.DataFrame) -> Figure:
    """frame: ablation.csv of one study. One panel a budget (at most PANELS), one line a variant: predicted loss as a
    dot, the lower bound as a tick, the measured KL with 1 s.e. ValueError where no variant has a result."""
    shown = frame[(frame.predicted_loss > 0) | (frame.get("kl", pd.Series(math.nan, index=frame.index)) > 0)]
    if shown.empty:
        raise ValueError("ablation: no variant has a result to draw")
    budgets = list(dict.fromkeys(shown.budget))
    if len(budgets) > PANELS:
        budgets = [budgets[0], budgets[len(budgets) // 2], budgets[-1]]
    variants = list(dict.fromkeys(shown.variant))
    result = style.new_figure(1.1 + ROW * len(variants))
    panels = result.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    for axes, budget in zip(panels, budgets, strict=True):
        _panel(axes, shown[shown.budget == budget], variants, budget)
    panels[0].set_yticks(range(len(variants)), labels=variants)
    panels[0].invert_yaxis()
    style.legend(panels[-1], loc="best")
    return result


def _panel(axes: Axes, frame: pd.DataFrame, variants: list[str], budget: str) -> None:
    rows = frame.set_index("variant")
    at = [variants.index(name) for name in rows.index]
    bound = rows.lower_bound.where(rows.lower_bound > 0)
    axes.plot(bound, at, linestyle="none", marker="|", markersize=11, color=style.MUTED, label="lower bound")
    axes.plot(
        rows.predicted_loss, at, linestyle="none", marker="o", markersize=5, color=style.ACCENT, label="predicted"
    )
    values = [*rows.predicted_loss.dropna()]
    if "kl" in rows and rows.kl.notna().any():
        look: dict[str, Any] = {"fmt": "s", "markersize": 4.5, "capsize": 2.5, "color": style.INK}
        axes.errorbar(rows.kl, at, xerr=rows.kl_se.fillna(0.0), label="measured KL", **look)
        values += [*rows.kl.dropna()]
    style.dress(axes, title=budget, x="nats/token", grid="x")
    low, high = min(values), max(values)
    if high > 4 * low > 0:
        axes.set_xscale("log")
        style.log_ticks(axes.xaxis, low, high)


def markdown(frame: pd.DataFrame) -> str:
    """The table of one study: a row a variant, for each budget the predicted loss, the loss over the baseline's and,
    where measured, the KL with its paired difference."""
    measured = "kl" in frame.columns and bool(frame.kl.notna().any())
    budgets = list(dict.fromkeys(frame.budget))
    head = ["variant"]
    for budget in budgets:
        head += [f"{budget}: predicted"] + ([f"{budget}: KL", f"{budget}: KL - baseline"] if measured else [])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant in dict.fromkeys(frame.variant):
        own = frame[frame.variant == variant].set_index("budget")
        words = [variant]
        for budget in budgets:
            row = own.loc[budget] if budget in own.index else None
            words += _words(row, measured)
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines) + reasons(frame)


def _words(row: pd.Series | None, measured: bool) -> list[str]:
    if row is None:
        return [""] * (3 if measured else 1)
    loss = significant(row.predicted_loss, 5) if row.predicted_loss == row.predicted_loss else ""
    if not measured:
        return [loss]
    kl = with_error(row.kl, row.kl_se) if row.kl == row.kl else ""
    difference = with_error(row.difference, row.difference_se) if row.difference == row.difference else ""
    return [loss, kl, difference]


def reasons(frame: pd.DataFrame) -> str:
    """One line a variant without a result, saying why."""
    without = frame[frame.reason.fillna("") != ""]
    lines = [
        f"- {variant} ({', '.join(rows.budget)}): {reason}"
        for (variant, reason), rows in without.groupby(["variant", "reason"], sort=False)
    ]
    return "\n\n" + "\n".join(lines) if lines else ""


def rank_correlations(values: pd.DataFrame) -> pd.DataFrame:
    """values: a row a layer, a column a method. Rows method, other, spearman, layers (those that both have): Spearman's
    rank correlation of every pair (Spearman, 1904, doi:10.2307/1412159), ties at their mean rank."""
    rows = []
    columns = list(values.columns)
    for at, first in enumerate(columns):
        for second in columns[at + 1 :]:
            both = values[[first, second]].dropna()
            ranks = both.rank()
            varied = len(both) > 1 and (ranks.std() > 0).all()
            rows.append(
                {
                    "method": first,
                    "other": second,
                    "spearman": float(ranks[first].corr(ranks[second])) if varied else math.nan,
                    "layers": len(both),
                }
            )
    return pd.DataFrame(rows, columns=["method", "other", "spearman", "layers"])
