"""The report of a run: one self-contained report.html from the artifacts of the run folder, nothing recomputed.

`python -m analysis.report RUN_FOLDER`. Headline first: what the plan costs and loses, beside the best uniform plan of
the same bytes and round-to-nearest; then everything needed to doubt it."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import page, plans, sections
from analysis.artifacts import Run, read_run
from analysis.figures import draw
from analysis.numbers import PLUS_MINUS, count, fixed, percent, significant, size, with_error

WHOLE_TYPES = {"float32", "float16", "bfloat16", "float64"}


def write_report(run_folder: Path) -> Path:
    """Write `run_folder/report.html` atomically and return its path. Raises FileNotFoundError without the folder,
    ValueError (file and column named) on a damaged artifact."""
    path = run_folder / "report.html"
    content = render(read_run(run_folder))
    temporary = path.with_suffix(".html.partial")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)
    return path


def render(run: Run) -> str:
    """The report as text."""
    figures = draw(run)
    parts = [
        ("headline", "What it costs and what it loses", results(run)),
        ("certificate", "Certificate of the allocation", sections.certificate(run, figures)),
        ("pareto", "Pareto front", front(run, figures)),
        ("prediction", "Predicted against measured", prediction(run, figures)),
        ("bits", "Bits by layer", sections.bits(run, figures)),
        ("sensitivities", "Sensitivities", sections.sensitivities(run, figures)),
        ("rates", "Rate and distortion", sections.rates(run, figures)),
        ("rotation", "Rotation and Gaussianity", sections.rotation(run, figures)),
        ("run", "Run and environment", sections.machine(run, figures)),
    ]
    model = model_name(run.info)
    head = (
        page.paragraph("bitpalette report", "kicker")
        + f"<h1>{escape(model)}</h1>"
        + page.paragraph(reference(run.info))
    )
    lead = sentence(run)
    if lead:
        head += page.paragraph(lead, "lead") + page.tiles(main_numbers(run))
    foot = f"Made from the files in {run.folder.name}; every number is in one of them. Errors are 1 standard error."
    return page.page(f"bitpalette: {model}", head, parts, foot)


def _model(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """run.json's `model` ({path, source_dtype}), or the one of its config."""
    model = info.get("model") or info.get("config", {}).get("model")
    return model if isinstance(model, dict) else {}


def model_name(info: Mapping[str, Any]) -> str:
    """Name of the model: `name` or the last part of its path."""
    model = _model(info)
    return str(model.get("name") or str(model.get("path", "")).rstrip("/").split("/")[-1] or "Unnamed model")


def reference(info: Mapping[str, Any]) -> str:
    """What every loss is measured against."""
    stored = info.get("source_dtype") or _model(info).get("source_dtype")
    if stored is None:
        return "The reference is the checkpoint as loaded; run.json does not say how its weights were stored."
    if str(stored).removeprefix("torch.") in WHOLE_TYPES:
        return f"The reference is the original checkpoint; its weights were stored as {stored}."
    return (
        f"The weights were stored as {stored}, that is, already quantized once: the dequantized checkpoint is the "
        "reference, and every loss and KL below is relative to it, not to the model before that quantization. A plain "
        "baseline on that same grid of values would reproduce the reference and mean nothing; the rotation removes the grid."
    )


def _main_comparison(run: Run) -> pd.Series | None:
    """The main plan beside the uniform plan that loses least among those of its bytes (nearest where none has them)."""
    if "summary.csv" not in run.frames:
        return None
    table, main = plans.comparisons(run), plans.main_plan(run)
    own = table[(table["plan"] == main) & (table["kind"] == plans.UNIFORM)]
    if own.empty:
        return None
    same = own[own["extra_bytes"].abs() <= plans.SAME_BYTES]
    return own.loc[own["extra_bytes"].abs().idxmin()] if same.empty else same.loc[same["rival_kl"].idxmin()]


def sentence(run: Run) -> str:
    """The result in one sentence; empty where no mixed plan was measured."""
    main = plans.main_plan(run)
    if "summary.csv" not in run.frames or main not in set(run.frames["summary.csv"]["plan"]):
        return ""
    row = run.frames["summary.csv"].set_index("plan").loc[main]
    result = (
        f"At {fixed(row['bits_per_weight'], 3)} bits per weight the mixed plan {main} loses "
        f"{with_error(row['kl'], row['kl_se'])} nats/token of KL to the original"
    )
    rival = _main_comparison(run)
    if rival is None:
        return result + "."
    change = rival["kl"] / rival["rival_kl"] - 1
    result += (
        f", {percent(abs(change))} {'less' if change < 0 else 'more'} than the uniform plan {rival['rival']}, "
        f"{bytes_apart(rival['extra_bytes'])}"
    )
    if math.isnan(rival["difference_se"]):
        return result + "."
    clear = abs(rival["difference"]) / rival["difference_se"] if rival["difference_se"] > 0 else math.inf
    doubt = "" if clear > 2 else ", which is within the noise"
    return (
        result
        + f"; the paired difference is {significant(clear, 2)} standard errors over {count(rival['windows'])} windows{doubt}."
    )


def bytes_apart(extra: float) -> str:
    """The difference of bytes in words, for the plan against its rival."""
    if extra == 0:
        return "which takes the same bytes"
    if abs(extra) < 1e-3:
        return f"which takes the same bytes to {significant(abs(extra), 1)}"
    return f"which takes {percent(abs(extra), 2)} {'fewer' if extra > 0 else 'more'} bytes"


def main_numbers(run: Run) -> list[tuple[str, str]]:
    """(value, meaning) of the tiles, for the main plan."""
    table = plans.headline(run).set_index("plan")
    row = table.loc[plans.main_plan(run)]
    items = [
        (size(row["memory_bytes"]), f"quantized layers, {fixed(row['bits_per_weight'], 3)} bits per weight"),
        (f"{with_error(row['kl'], row['kl_se'])}", "KL to the original [nats/token]"),
    ]
    original = table[table["kind"] == plans.ORIGINAL]
    was = f"perplexity; the original has {fixed(original['perplexity'].iloc[0], 2)}" if len(original) else "perplexity"
    items.append((fixed(row["perplexity"], 2), was))
    if not math.isnan(row["ratio"]):
        items.append((with_error(row["ratio"], row["ratio_se"]), "predicted / measured loss increase"))
    return items


def results(run: Run) -> str:
    """The headline table and the paired comparisons."""
    if "summary.csv" not in run.frames:
        return sections.absent("summary.csv")
    frame = plans.headline(run)
    columns = [
        page.text("plan"),
        page.text("kind"),
        *map(
            page.number,
            (
                "bits per weight",
                "quantized layers",
                "on disk",
                "perplexity",
                "KL to the original [nats/token]",
                "predicted loss [nats/token]",
                "measured loss increase [nats/token]",
                "predicted / measured",
            ),
        ),
    ]
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
        "Quantized layers: bytes of codes and scales, to the byte what the allocator charged; on disk: the whole checkpoint "
        f"with embeddings. MB is 10^6 bytes; {PLUS_MINUS} is 1 standard error over windows."
    )
    return page.table(columns, rows, strong=strong) + page.paragraph(note, "note") + _comparison_table(run)


def _comparison_table(run: Run) -> str:
    table = plans.comparisons(run)
    title = page.heading("Mixed plans beside their rivals, window by window")
    if table.empty:
        return title + page.paragraph(
            "No uniform or round-to-nearest plan of about the same bytes was measured.", "note"
        )
    columns = [
        page.text("plan"),
        page.text("rival"),
        *map(
            page.number,
            ("bytes against rival", "KL / rival's KL", "KL difference [nats/token]", "standard errors", "windows"),
        ),
    ]
    rows = []
    for _, row in table.iterrows():
        clear = row["difference"] / row["difference_se"] if row["difference_se"] > 0 else math.nan
        rows.append(
            (
                row["plan"],
                f"{row['rival']} ({row['kind']})",
                "same" if row["extra_bytes"] == 0 else percent(row["extra_bytes"], 3),
                fixed(row["kl"] / row["rival_kl"] if row["rival_kl"] > 0 else None, 3),
                with_error(row["difference"], row["difference_se"]),
                fixed(clear, 1),
                count(row["windows"]),
            )
        )
    note = "" if "evaluation.csv" in run.frames else sections.absent("evaluation.csv")
    return title + page.table(columns, rows) + note


def front(run: Run, figures: sections.Figures) -> str:
    """The Pareto figure and its table."""
    if "pareto.csv" not in run.frames:
        return sections.absent("pareto.csv")
    frame = run.frames["pareto.csv"]
    measured = int(frame["measured_kl"].notna().sum())
    caption = f"{len(frame)} plans predicted, {measured} measured; bars are 1 s.e. over windows. Log axes in the loss."
    columns = [
        page.text("plan"),
        page.text("solver"),
        *map(page.number, ("budget [bits per weight]", "bytes", "predicted loss", "lower bound", "measured KL")),
    ]
    rows = [
        (
            row["plan"],
            row["solver"],
            fixed(row["budget_bits_per_weight"], 3),
            count(row["memory_bytes"]),
            significant(row["predicted_loss"], 5),
            significant(row["lower_bound"], 5),
            with_error(row["measured_kl"], row["measured_kl_se"]),
        )
        for _, row in frame.iterrows()
    ]
    return page.drawing("pareto", figures["pareto"], caption) + page.folded("Table", page.table(columns, rows))


def prediction(run: Run, figures: sections.Figures) -> str:
    """The figure of predicted against measured plans, or why it is not there."""
    if "predicted_measured" in figures:
        caption = "A point is a plan; bars are 1 s.e.; inside the band predicted and measured agree within 25 %."
        return page.drawing("predicted_measured", figures["predicted_measured"], caption)
    if "summary.csv" in run.frames:
        return page.missing("a predicted loss in summary.csv", sections.PIPELINE)
    return sections.absent("summary.csv")


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr for a bad input."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="The report of a run folder.")
    parser.add_argument("run_folder", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        path = write_report(chosen.run_folder)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
