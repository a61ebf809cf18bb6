"""The Pareto front of a run: predicted loss at every budget, measured KL where a run of that budget stands beside it.

`python -m experiments.pipeline --multirun budget.bits_per_weight=2.5,3,3.5,4,4.5` makes the measured points (each in a
folder of its own, all sharing one code cache); `python -m experiments.pareto run=FOLDER` collects them."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from alloc.budgets import Budgets, uniform_bytes
from alloc.tables import Tables, read_tables
from analysis.report import write_report
from experiments.entry import run as start
from experiments.plan_stage import solve, uniform_plan
from experiments.workspace import Workspace, write_csv

POINTS = 41


def front(tables: Tables, cfg: DictConfig, measured: pd.DataFrame) -> pd.DataFrame:
    """Rows of pareto.csv: the optimum at `POINTS` budgets and every uniform plan, then the measured plans.

    measured: summary rows of runs on the same tables (plan, memory_bytes, predicted_loss, lower_bound, kl, kl_se)."""
    weights = int(tables.params[tables.allocatable].sum())
    members = [quantizer for quantizer in tables.quantizers if _member(quantizer, cfg)]
    bits = sorted(8 * uniform_bytes(tables, quantizer) / weights for quantizer in members if quantizer != "fp16")
    rows = []
    for value in np.linspace(bits[0], bits[-1], POINTS):
        # bytes, not bits: the first budget is the palette's minimum, which a rounded quotient would undercut
        solution = solve(tables, cfg, Budgets(memory_bytes=round(float(value) * weights / 8)))
        rows.append((float(value), f"mixed-{value:.3f}-bits", solution.solver, solution))
    for quantizer in members:
        if quantizer != "fp16":
            solution = uniform_plan(tables, quantizer, list(cfg.exclude))
            rows.append((8 * solution.costs["memory_bytes"] / weights, quantizer, "uniform", solution))
    frame = pd.DataFrame(
        [
            {
                "budget_bits_per_weight": value,
                "plan": plan,
                "solver": solver,
                "memory_bytes": solution.costs["memory_bytes"],
                "predicted_loss": solution.objective,
                "lower_bound": solution.lower_bound if solver != "uniform" else np.nan,
            }
            for value, plan, solver, solution in rows
        ]
    )
    points = measured.assign(
        budget_bits_per_weight=8 * measured.memory_bytes / weights,
        solver=np.where(measured.plan.isin(tables.quantizers), "uniform", "exact"),
    ).rename(columns={"kl": "measured_kl", "kl_se": "measured_kl_se"})
    columns = [*frame.columns, "measured_kl", "measured_kl_se"]
    frame = frame[~frame.plan.isin(points.plan)].reindex(columns=columns)
    return pd.concat([frame, points[columns]]).sort_values("budget_bits_per_weight", ignore_index=True)


def _member(quantizer: str, cfg: DictConfig) -> bool:
    return any(fnmatchcase(quantizer, pattern) for pattern in cfg.palette.members)


def measured_beside(folder: Path) -> pd.DataFrame:
    """Summary rows of this run and of its siblings with the very same tables, the reference left out."""
    own = {name: (folder / name).read_bytes() for name in ("layers.csv", "quantizers.csv", "storage.csv")}
    frames = []
    for path in sorted(folder.resolve().parent.glob("*/summary.csv")):
        if all(
            (path.parent / name).is_file() and (path.parent / name).read_bytes() == data for name, data in own.items()
        ):
            frames.append(pd.read_csv(path))
    frame = pd.concat(frames, ignore_index=True).drop_duplicates("plan")
    return frame[frame.plan != "reference"]


def write_front(run: Workspace) -> None:
    """pareto.csv of a run folder."""
    tables = read_tables(run.folder)
    write_csv(front(tables, run.cfg, measured_beside(run.folder)), run.path("pareto.csv"))


def main(cfg: DictConfig) -> None:
    """Collect the runs beside `run` into its pareto.csv and write its report again."""
    if not cfg.run:
        raise ValueError("run is not set: name a run folder, e.g. run=outputs/smollm2-4-bits")
    folder = Path(cfg.run)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder}/run.json is missing: not a finished run of experiments.pipeline")
    config = OmegaConf.create(json.loads((folder / "run.json").read_text())["config"])
    write_front(Workspace(cfg=config, folder=folder))
    print(f"{folder / 'pareto.csv'}\n{write_report(folder)}")


if __name__ == "__main__":
    start(main, "pareto")
