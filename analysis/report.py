"""The report of a run: one self-contained report.html from the artifacts of the run folder, nothing recomputed.

`python -m analysis.report RUN_FOLDER`. Headline first: what the plan costs and loses, beside the best uniform plan of
the same bytes and round-to-nearest; then everything needed to doubt it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from analysis import headline, page, plan_sections, run_section, weight_sections
from analysis.artifacts import Run, read_run
from analysis.figures import draw

WHOLE_TYPES = {"float64", "float32", "float16", "bfloat16"}


def write_report(run_folder: Path) -> Path:
    """Write `run_folder/report.html` atomically and return its path. Raises FileNotFoundError without the folder,
    ValueError (file and column named) on a damaged artifact."""
    content = render(read_run(run_folder))
    path = run_folder / "report.html"
    temporary = path.with_suffix(".html.partial")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)
    return path


def render(run: Run) -> str:
    """The report as text."""
    figures = draw(run)
    parts = [
        ("headline", "What it costs and what it loses", headline.results(run)),
        ("certificate", "Certificate of the allocation", plan_sections.certificate(run, figures)),
        ("pareto", "Pareto front", plan_sections.front(run, figures)),
        ("prediction", "Predicted against measured", plan_sections.prediction(run, figures)),
        ("bits", "Bits by layer", plan_sections.bits(run, figures)),
        ("sensitivities", "Sensitivities", weight_sections.sensitivities(run, figures)),
        ("rates", "Rate and distortion", weight_sections.rates(run, figures)),
        ("rotation", "Rotation and Gaussianity", weight_sections.rotation(run, figures)),
        ("run", "Run and environment", run_section.machine(run, figures)),
    ]
    model = model_name(run.info)
    head = page.paragraph("bitpalette report", "kicker") + f"<h1>{escape(model)}</h1>"
    lead = headline.sentence(run)
    if lead:
        head += page.paragraph(lead, "lead") + headline.tiles(run)
    head += page.paragraph(reference(run.info), "note")
    foot = f"Made from the files in {run.folder.resolve().name}; every number is in one of them."
    return page.page(f"bitpalette: {model}", head, parts, foot)


def model_name(info: Mapping[str, Any]) -> str:
    """Name of the model in run.json's config: `name`, or the last part of its `path`."""
    model = info.get("config", {}).get("model")
    model = model if isinstance(model, dict) else {}
    last = str(model.get("path", "")).split("#")[0].rstrip("/").split("/")[-1]
    return str(model.get("name") or last or "Unnamed model")


def reference(info: Mapping[str, Any]) -> str:
    """What every loss is measured against, from run.json's `reference`: how the checkpoint stored its weights."""
    stored = info.get("reference")
    if stored is None:
        return "The reference is the checkpoint as loaded; run.json does not say how its weights were stored."
    if str(stored).removeprefix("torch.") in WHOLE_TYPES:
        return f"The reference is the original checkpoint; its weights were stored as {stored}."
    return (
        f"The reference: the weights were stored as {stored}, so they were quantized once before. The dequantized "
        "checkpoint is the reference, and every loss and KL here is relative to it, not to the model before that "
        "quantization. A baseline on that same grid, without rotation, would reproduce the reference and mean nothing."
    )


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
