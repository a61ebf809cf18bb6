"""The main job in one command: choose, quantize, check, report.

inventory -> rotation -> rate-distortion -> storage -> sensitivities -> allocation -> quantization -> checkpoint ->
load back -> evaluation -> report.html. Every stage leaves its artifact in the run folder and is skipped where nothing
that it reads has changed: a killed run goes on, a changed budget repeats only what depends on it."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.logging import RichHandler

from analysis.report import write_report
from experiments.entry import run as start
from experiments.entry import save_run
from experiments.pareto import write_front
from experiments.plan_results import evaluate_plans, quantize_plans, summarise_plans
from experiments.plan_stage import label, make_plans
from experiments.sensitivity_check import check_sensitivities
from experiments.summary_table import print_summary
from experiments.table_stages import (
    check_rotation,
    count_storage,
    make_inventory,
    measure_rates,
    measure_sensitivities,
)
from experiments.workspace import Workspace, model_label


def main(cfg: DictConfig) -> None:
    """Run every stage and print the honest table."""
    console = Console(stderr=True)
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    folder = Path(cfg.out) if cfg.out else Path("outputs") / f"{model_label(cfg)}-{label(cfg)}"
    run = Workspace(cfg=cfg, folder=folder)
    make_inventory(run)
    check_rotation(run)
    measure_rates(run)
    count_storage(run)
    measure_sensitivities(run)
    plans = make_plans(run)
    if cfg.check.layers:
        check_sensitivities(run)
    quantize_plans(run, plans)
    evaluate_plans(run, plans)
    summary = summarise_plans(run, plans)
    write_front(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    save_run(
        folder, cfg, seconds=run.stages.seconds, skipped=run.stages.skipped, peak_memory_bytes=peak,
        reference=run.loaded.source_dtype,
    )  # fmt: skip
    report = write_report(folder)
    print_summary(summary, run.stages, peak)
    print(f"report: {report}")


if __name__ == "__main__":
    start(main, "pipeline")
