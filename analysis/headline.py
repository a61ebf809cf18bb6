"""What a reader sees first: the result in a sentence, four numbers, the table of plans, the paired comparisons.

All of it from summary.csv and evaluation.csv. The comparison in the sentence is with a uniform plan of the same bytes:
the main plan's own where one has its bytes, else the one that a mixed plan comes nearest to in bytes."""

from __future__ import annotations

import math

import pandas as pd

from analysis import page, plans
from analysis.artifacts import Run
from analysis.numbers import PLUS_MINUS, count, fixed, percent, significant, size, with_error


def _main_row(run: Run) -> pd.Series | None:
    """The main plan's row of the headline table, None where it was not measured."""
    if "summary.csv" not in run.frames:
        return None
    table = plans.headline(run)
    rows = table[table["plan"] == plans.main_plan(run)]
    return rows.iloc[0] if len(rows) else None


def fair_comparison(run: Run) -> pd.Series | None:
    """The row of `plans.comparisons` that the sentence reports, None where no uniform plan of about the same bytes was
    measured: the main plan's against the best rival of its bytes, else the pair nearest in bytes."""
    if "summary.csv" not in run.frames:
        return None
    table = plans.comparisons(run)
    table = table[table["kind"] == plans.UNIFORM]
    same = table[table["extra_bytes"].abs() <= plans.SAME_BYTES]
    own = same[same["plan"] == plans.main_plan(run)]
    if len(own):
        return own.sort_values("rival_kl", kind="stable").iloc[0]
    nearest = table.assign(away=table["extra_bytes"].abs()).sort_values("away", kind="stable")
    return nearest.iloc[0] if len(nearest) else None


def sentence(run: Run) -> str:
    """The result in words; empty where no mixed plan was measured."""
    row, rival = _main_row(run), fair_comparison(run)
    if row is None:
        return ""
    own = with_error(row["kl"], row["kl_se"])
    result = (
        f"At {fixed(row['bits_per_weight'], 3)} bits per weight the mixed plan {row['plan']} loses {own} nats/token"
    )
    result += " of KL to the original"
    if rival is None:
        return f"{result}."
    change = rival["kl"] / rival["rival_kl"] - 1 if rival["rival_kl"] > 0 else math.nan
    than = f"{percent(abs(change))} {'less' if change < 0 else 'more'} than the uniform plan {rival['rival']}"
    where = bytes_apart(rival["extra_bytes"])
    if rival["plan"] == row["plan"]:
        result += f", {than} {where}"
    else:
        result += f". The mixed plan {rival['plan']} loses {than} {where}"
    if math.isnan(rival["difference_se"]) or rival["difference_se"] == 0:
        return f"{result}."
    clear = abs(rival["difference"]) / rival["difference_se"]
    result += f", a paired difference of {significant(clear, 2)} standard errors over {count(rival['windows'])} windows"
    return f"{result}." if clear > 2 else f"{result}, which is within the noise."


def bytes_apart(extra: float) -> str:
    """The plan's bytes over the rival's, minus 1, in words about the rival."""
    if abs(extra) < 1e-3:
        return "of the same bytes" if extra <= 0 else f"of the same bytes but for {percent(extra, 3)}"
    return f"of {percent(abs(extra), 2)} {'fewer' if extra > 0 else 'more'} bytes"


def tiles(run: Run) -> str:
    """Four numbers of the main plan, HTML; empty where it was not measured."""
    row = _main_row(run)
    if row is None:
        return ""
    original = plans.headline(run).query("kind == @plans.ORIGINAL")
    was = f"perplexity; the original has {fixed(original['perplexity'].iloc[0], 2)}" if len(original) else "perplexity"
    ratio = with_error(row["ratio"], row["ratio_se"])
    return page.tiles(
        [
            (size(row["memory_bytes"]), f"quantized layers, {fixed(row['bits_per_weight'], 3)} bits per weight"),
            (with_error(row["kl"], row["kl_se"]), "KL to the original, nats/token"),
            (fixed(row["perplexity"], 2), was),
            (ratio, "predicted / measured loss increase"),
        ]
    )


def results(run: Run) -> str:
    """The table of plans and the paired comparisons, HTML."""
    if "summary.csv" not in run.frames:
        return page.absent("summary.csv")
    frame = plans.headline(run)
    heads = ["bits per weight", "quantized layers", "on disk", "perplexity", "KL to the original"]
    heads += ["predicted loss", "measured loss increase", "predicted / measured"]
    rows = [
        (
            row["plan"],
            row["kind"],
            fixed(row["bits_per_weight"], 3),
            size(row["memory_bytes"]),
            size(row["disk_bytes"]),
            fixed(row["perplexity"], 2),
            with_error(row["kl"], row["kl_se"]),
            significant(row["predicted_loss"], 4),
            with_error(row["loss_increase"], row["loss_increase_se"]),
            with_error(row["ratio"], row["ratio_se"]),
        )
        for _, row in frame.iterrows()
    ]
    strong = frozenset(i for i, plan in enumerate(frame["plan"]) if plan == plans.main_plan(run))
    note = (
        f"KL and losses in nats/token, {PLUS_MINUS} 1 standard error over windows; the loss increase is paired with "
        "the original. Quantized layers: codes and scales, to the byte what the allocator charged. On disk: the whole "
        "checkpoint, embeddings included. MB is a million bytes."
    )
    table = page.table([page.text("plan"), page.text("kind"), *map(page.number, heads)], rows, strong=strong)
    return table + page.paragraph(note, "note") + _comparisons(run)


def _comparisons(run: Run) -> str:
    table = plans.comparisons(run)
    title = page.heading("Mixed plans beside their rivals, window by window")
    if table.empty:
        return title + page.paragraph(
            "No uniform or round-to-nearest plan of about the same bytes was measured.", "note"
        )
    heads = (
        "bytes over rival",
        "KL",
        "rival's KL",
        "KL / rival's",
        "paired KL difference",
        "in standard errors",
        "windows",
    )
    rows = []
    for _, row in table.iterrows():
        clear = row["difference"] / row["difference_se"] if row["difference_se"] > 0 else math.nan
        rows.append(
            (
                row["plan"],
                row["rival"],
                row["kind"],
                "same" if row["extra_bytes"] == 0 else percent(row["extra_bytes"], 3),
                significant(row["kl"], 4),
                significant(row["rival_kl"], 4),
                fixed(row["kl"] / row["rival_kl"] if row["rival_kl"] > 0 else None, 3),
                with_error(row["difference"], row["difference_se"]),
                fixed(clear, 1),
                count(row["windows"]),
            )
        )
    columns = [page.text("plan"), page.text("rival"), page.text("kind"), *map(page.number, heads)]
    note = "" if "evaluation.csv" in run.frames else page.absent("evaluation.csv")
    return title + page.table(columns, rows) + note
