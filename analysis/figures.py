"""Every figure of a run: `python -m analysis.figures RUN_FOLDER OUT` writes each as PDF, PNG and SVG.

`draw` is the only place that knows which figure reads which artifact; a figure whose artifact is absent is absent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis import (
    bit_map,
    gaussianity,
    pareto,
    plans,
    predicted_measured,
    rate_distortion,
    sensitivity,
    stage_times,
    style,
)
from analysis.artifacts import Run, read_run

# name -> (artifact, its figure): the figures that read one table as it is
FROM_TABLE: Mapping[str, tuple[str, Callable[[pd.DataFrame], Figure]]] = {
    "rate_distortion": ("rate_distortion.csv", rate_distortion.figure),
    "kurtosis": ("gaussianity.csv", gaussianity.figure),
    "distortion_ratio": ("layer_distortion.csv", gaussianity.ratio_figure),
    "sensitivity_check": ("sensitivity_check.csv", sensitivity.check_figure),
    "pareto": ("pareto.csv", pareto.figure),
}
MAPPED_PLANS = 6  # panels of the bit map; a sweep's other plans are in the tables


def draw(run: Run) -> dict[str, Figure]:
    """name -> figure, for every figure whose artifacts are there."""
    with matplotlib.rc_context(style.SETTINGS):
        figures = {name: make(run.frames[file]) for name, (file, make) in FROM_TABLE.items() if file in run.frames}
        layers = run.frames.get("layers.csv")
        if layers is not None and (layers["sensitivity"] > 0).any():
            figures["sensitivity"] = sensitivity.figure(layers)
        if "summary.csv" in run.frames:
            table = plans.headline(run)
            if (table["predicted_loss"] > 0).any():
                figures["predicted_measured"] = predicted_measured.figure(table)
        mapped = mapped_assignments(run)
        if len(mapped):
            figures["bit_map"] = bit_map.figure(mapped)
        if run.seconds:
            figures["stages"] = stage_times.figure(run.seconds)
    return figures


def mapped_assignments(run: Run) -> pd.DataFrame:
    """Layers and bits of the mixed plans that the bit map shows: those of summary.csv, else of the allocations."""
    choices = plans.assignments(run).dropna(subset="bits_per_weight")
    kind = plans.kinds(run)
    measured = list(run.frames["summary.csv"]["plan"]) if "summary.csv" in run.frames else []
    known = set(choices["plan"])
    names = [plan for plan in [*measured, *run.allocations] if kind[plan] == plans.MIXED and plan in known]
    if measured:
        names = [plan for plan in names if plan in measured] or names
    shown = list(dict.fromkeys(names))[:MAPPED_PLANS]
    return pd.concat([choices[choices["plan"] == plan] for plan in shown]) if shown else choices.iloc[:0]


def write_figures(folder: Path, out: Path) -> list[Path]:
    """Draw the run in `folder` into `out/NAME.{pdf,png,svg}`; the paths written."""
    figures = draw(read_run(folder))
    return [path for name, figure in figures.items() for path in save(figure, name, out)]


def save(figure: Figure, name: str, out: Path) -> list[Path]:
    """One figure as `out/NAME.{pdf,png,svg}`; the paths written."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.{suffix}" for suffix in ("pdf", "png", "svg")]
    for path in paths:
        with matplotlib.rc_context({**style.SETTINGS, "svg.hashsalt": name}):
            figure.savefig(path, dpi=200)
    return paths


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr for a bad input."""
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description="Every figure of a run as files.")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        paths = write_figures(chosen.run_folder, chosen.out)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.writelines(f"{path}\n" for path in paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
