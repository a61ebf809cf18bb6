"""The Pareto front of a run, with what was measured beside what is predicted, or of a tables folder alone.

`python -m experiments.pipeline --multirun budget.bits_per_weight=2.5,3,3.5,4,4.5` makes the measured points (each in a
folder of its own, all sharing one code cache); `python -m experiments.pareto run=FOLDER` collects them.
`python -m experiments.pareto tables=FOLDER out=DIR budget=[memory_bytes,latency_us]` needs no model: `points` budgets
of each cost from the tables, `exact` of them proven."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from alloc.budgets import Budgets
from alloc.front import Front, front, information_bound, option_bytes
from alloc.problem import Problem, build_problem
from alloc.solvers.single import uniform_problems
from alloc.tables import Tables, read_tables
from analysis import pareto as figures
from analysis.figures import save
from analysis.report import write_report
from experiments.allocate import flag, strings, whole
from experiments.entry import run as start
from experiments.entry import save_run
from experiments.workspace import Workspace, write_csv

RUN_POINTS = 41
ALIASES = {"bits_per_weight": "memory_bytes", "tokens_per_second": "latency_us"}
# a budget that limits nothing: a front looks at all of them
UNLIMITED = 2**60


def front_table(problem: Problem, *, points: int, exact: int | Sequence[int] | None) -> pd.DataFrame:
    """Rows of pareto.csv: the front from the smallest feasible budget to that of the largest uniform plan below fp16,
    and every uniform plan. `exact`: how many points are proven, or which; None: all."""
    if points < 2:
        raise ValueError(f"points={points} is not accepted; a front has at least 2")
    uniform = _uniform_rows(problem)
    unit, starts = problem.units[0], problem.offsets[:-1]
    least = int(np.minimum.reduceat(problem.costs[0], starts).sum())
    dearest = int(np.maximum.reduceat(problem.costs[0], starts).sum())
    top = max((cost for name, cost in zip(uniform.plan, uniform.units, strict=True) if name != "fp16"), default=dearest)
    limits = least + np.linspace(0, max(top - least, points), points).round().astype(np.int64)
    found = front(problem, limits=limits.tolist(), exact=points if exact is None else exact)
    mixed = _mixed_rows(found, "exact" if exact is None else "front")
    frame = pd.concat([mixed, uniform.drop(columns="units")], ignore_index=True)
    return frame.assign(budget=unit.name, measured_kl=np.nan, measured_kl_se=np.nan)


def _mixed_rows(found: Front, solver: str) -> pd.DataFrame:
    frame = found.frame()
    name, scope = found.problem.units[0].name, found.problem.scope
    bits = frame.bits_per_weight
    if name == "memory_bytes":
        fixed = float(found.problem.units[0].fixed)
        bits = 8.0 * (frame.budget - fixed) / scope.params
        plans = [f"mixed-{value:.3f}-bits" for value in bits]
    else:
        plans = [f"mixed-{value:.10g}-{name.rpartition('_')[2]}" for value in frame.budget]
    return frame.rename(columns={"objective": "predicted_loss", "budget": "limit"}).assign(
        budget_bits_per_weight=bits, plan=plans, solver=solver
    )


def _uniform_rows(problem: Problem) -> pd.DataFrame:
    """Every plan of one quantizer (pinned layers keep theirs), at its own cost; `units`: that cost as the solver's."""
    unit, scope = problem.units[0], problem.scope
    free = np.flatnonzero(scope.allocated & (scope.allowed.sum(axis=1) > 1))
    rows = []
    for part in uniform_problems(problem) if len(free) else []:
        plan = part.offsets[:-1]  # options are sorted by cost: the fastest partition and kernels
        size = option_bytes(part)[plan].sum()
        cost = int(part.total(plan)[0])
        row = {
            "plan": scope.tables.quantizers[int(np.argmax(part.scope.allowed[free[0]]))],
            "solver": "uniform",
            "units": cost,
            "budget_bits_per_weight": 8.0 * size / scope.params,
            "bits_per_weight": 8.0 * size / scope.params,
            "memory_bytes": size,
            "predicted_loss": part.loss[plan].sum(),
            "information_bound": information_bound(part, np.array([size]))[0],
            unit.name: float(unit.natural(cost)),
        }
        if unit.name == "latency_us":
            row["tokens_per_second"] = scope.batch * 1e6 / row[unit.name]
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["plan", "units"])


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


def with_measured(frame: pd.DataFrame, measured: pd.DataFrame, problem: Problem) -> pd.DataFrame:
    """`frame` of front_table with measured plans in the place of predicted ones of their names.

    measured: summary rows of runs on the same tables (plan, memory_bytes, predicted_loss, lower_bound, kl, kl_se)."""
    points = measured.assign(
        budget_bits_per_weight=8 * measured.memory_bytes / problem.scope.params,
        bits_per_weight=8 * measured.memory_bytes / problem.scope.params,
        information_bound=information_bound(problem, measured.memory_bytes.to_numpy()),
        solver=np.where(measured.plan.isin(problem.tables.quantizers), "uniform", "exact"),
        budget="memory_bytes",
    ).rename(columns={"kl": "measured_kl", "kl_se": "measured_kl_se"})
    points = points[[name for name in points.columns if name in frame.columns]]
    joined = pd.concat([frame[~frame.plan.isin(points.plan)], points])
    return joined.sort_values("budget_bits_per_weight", ignore_index=True)


def write_front(run: Workspace) -> None:
    """pareto.csv of a run folder."""
    cfg = run.cfg
    problem = unlimited(
        read_tables(run.folder), "memory_bytes", members=list(cfg.palette.members), pins=list(cfg.pin),
        exclude=list(cfg.exclude),
    )  # fmt: skip
    frame = front_table(problem, points=RUN_POINTS, exact=None)
    write_csv(with_measured(frame, measured_beside(run.folder), problem), run.path("pareto.csv"))


def unlimited(tables: Tables, name: str, **options: Any) -> Problem:
    """The problem of one cost, without a limit; `options` of build_problem. Raises ValueError on an unknown cost."""
    standard = {"memory_bytes": Budgets(memory_bytes=UNLIMITED), "latency_us": Budgets(latency_us=UNLIMITED)}
    budgets = standard[name] if name in standard else Budgets(named={name: UNLIMITED})
    return build_problem(tables, budgets=budgets, **options)


def collect(folder: Path) -> None:
    """pareto.csv of a finished run, with the runs beside it, and its report again."""
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder}/run.json is missing: not a finished run of experiments.pipeline")
    config = OmegaConf.create(json.loads((folder / "run.json").read_text())["config"])
    write_front(Workspace(cfg=config, folder=folder))
    print(f"{folder / 'pareto.csv'}\n{write_report(folder)}")


def draw(cfg: DictConfig) -> None:
    """pareto.csv and the figure of a tables folder alone."""
    if not cfg.out:
        raise ValueError("out is not set: name the folder to write to, e.g. out=outputs/front")
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    tables = read_tables(str(cfg.tables))
    names = ["memory_bytes", *(["latency_us"] if tables.latency else [])]
    if cfg.budget is not None:
        names = [ALIASES.get(name, name) for name in strings("budget", cfg.budget)]
    exact = [whole("exact", at) for at in cfg.exact] if OmegaConf.is_list(cfg.exact) else whole("exact", cfg.exact)
    frames = []
    for name in dict.fromkeys(names):
        problem = unlimited(
            tables,
            name,
            members=None if cfg.palette.members is None else strings("palette.members", cfg.palette.members),
            pins=strings("pin", cfg.pin),
            exclude=strings("exclude", cfg.exclude),
            kernels=None if cfg.kernels is None else strings("kernels", cfg.kernels),
            fusion=flag("fusion", cfg.fusion),
            batch=whole("batch", cfg.batch),
        )
        frames.append(front_table(problem, points=whole("points", cfg.points), exact=exact))
    frame = pd.concat(frames, ignore_index=True)
    write_csv(frame, out / "pareto.csv")
    paths = save(figures.figure(frame), "pareto", out)
    save_run(out, cfg)
    print("\n".join(str(path) for path in (out / "pareto.csv", *paths)))


def main(cfg: DictConfig) -> None:
    """`run` or `tables`, one of them."""
    if (cfg.run is None) == (cfg.tables is None):
        raise ValueError(
            "set run=FOLDER (a run of experiments.pipeline) or tables=FOLDER out=DIR; exactly one of run and tables"
        )
    if cfg.run is not None:
        collect(Path(str(cfg.run)))
    else:
        draw(cfg)


if __name__ == "__main__":
    start(main, "pareto")
