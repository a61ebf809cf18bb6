"""Times and gaps of every solver, side by side with other programs: `python -m experiments.bench_solvers out=DIR`.

Each solver and problem has a process of its own (solver_timing.py). The problems are the `cases` on a made-up model of
the size of Llama-3.1-8B and, with `tables=FOLDER`, on measured tables; and, for the solvers that are made for it, on
models of 882 and 69,120 layers. Writes solvers.json (rows and environment) and solvers.md (the table of
docs/solvers.md)."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from experiments.allocate import flag, strings, whole
from experiments.entry import environment, run, save_run
from experiments.progress import bar
from experiments.solver_timing import contestants, problem_of
from experiments.synthetic_tables import BLOCK_405B, EXPERT, write_synthetic

SCALE_SOLVERS = ("exact", "lagrangian")
SCALE_CASE = {"bits_per_weight": 3.25}
# beyond the time limit: reading, building and repairing
GRACE_S = 120.0
# of the programs' own tolerances, which stop a little above 0
PROVEN = 1e-8
ROOT = Path(__file__).resolve().parent.parent


def main(cfg: DictConfig) -> None:
    """Measure every task and write the tables."""
    out, limit = Path(cfg.out), float(cfg.time_limit_s)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    if not limit > 0 or whole("repeats", cfg.repeats) < 1:
        raise ValueError(f"time_limit_s={limit} and repeats={cfg.repeats} must be above 0")
    known = list(contestants(limit))
    names = known if cfg.solvers is None else list(strings("solvers", cfg.solvers))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown solver {unknown[0]!r}; there are {', '.join(known)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder, bar("solvers") as progress:
        tasks = list(_tasks(cfg, Path(folder), names))
        for done, task in enumerate(tasks):
            progress(done, len(tasks), f"{task['instance']} {task['name']} {task['solver']}")
            rows.append(_measured(task | {"repeats": cfg.repeats, "time_limit_s": limit}))
    machine = {**environment(), "processor": _processor(), "date": date.today().isoformat()}
    content = {"environment": machine, "time_limit_s": limit, "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    (out / "solvers.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "solvers.md").write_text(markdown(pd.DataFrame(rows)))
    save_run(out, cfg)
    print((out / "solvers.md").read_text())


def _tasks(cfg: DictConfig, folder: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Every (instance, case, solver); the problems are built once here, so that a bad case fails before any run."""
    instances = {"synthetic-8b": write_synthetic(folder / "8b")}
    quantizers = None
    if cfg.tables is not None:
        instances[Path(cfg.tables).name] = Path(cfg.tables).resolve()
        quantizers = (Path(cfg.tables) / "quantizers.csv").read_text()
    cases: Mapping[str, Mapping[str, Any]] = OmegaConf.to_container(cfg.cases)  # type: ignore[assignment]
    for instance, tables in instances.items():
        for name, case in cases.items():
            problem_of(str(tables), case)
            for solver in names:
                yield {"instance": instance, "name": name, "tables": str(tables), "case": case, "solver": solver}
    if flag("scale", cfg.scale):
        for instance, tables in _large(folder, quantizers).items():
            for solver in (name for name in SCALE_SOLVERS if name in names):
                task = {"instance": instance, "name": "memory", "tables": str(tables), "case": SCALE_CASE}
                yield task | {"solver": solver}


def _large(folder: Path, quantizers: str | None) -> dict[str, Path]:
    """126 blocks of seven layers; 60 blocks of 384 experts of three, and the same with repeating sensitivities."""
    experts: dict[str, Any] = {"blocks": 60, "experts": 384, "quantizers": quantizers}
    return {
        "405b, 882 layers": write_synthetic(folder / "405b", BLOCK_405B, blocks=126, quantizers=quantizers),
        "69,120 experts": write_synthetic(folder / "experts", EXPERT, **experts),
        "69,120 experts, 2 digits": write_synthetic(folder / "ties", EXPERT, digits=2, **experts),
    }


def _measured(task: dict[str, Any]) -> dict[str, Any]:
    """The row of a task; a process that fails or hangs is a row with an error."""
    row = {"instance": task["instance"], "case": task["name"], "solver": task["solver"]}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "experiments.solver_timing"],
            input=json.dumps(task | {"started": time.time()}),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=task["time_limit_s"] * (task["repeats"] + 1) + GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return row | {"error": f"no answer in {error.timeout:.0f} s"}
    if done.returncode:
        return row | {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row | answer


def markdown(rows: pd.DataFrame) -> str:
    """A table for each instance: a row a solver, a column a case with the time of the solve, how far the plan is above
    the best of the case, and the proven gap."""
    rows = rows.reindex(columns=[*rows.columns, *sorted({"objective", "error"} - set(rows.columns))])
    parts = []
    for instance, group in rows.groupby("instance", sort=False):
        cases = list(dict.fromkeys(group["case"]))
        heads = [f"{case}: {_size(group[group['case'] == case])}" for case in cases]
        parts += [f"### {instance}\n", f"| solver | {' | '.join(heads)} | cold start | peak memory |"]
        parts.append("|---" * (len(cases) + 3) + "|")
        notes = []
        for solver, own in group.groupby("solver", sort=False):
            cells = []
            for case in cases:
                best = group.loc[group["case"] == case, "objective"].min()
                for _, row in own[own["case"] == case].iterrows():
                    cells.append(_cell(row, best))
                    if pd.isna(row["objective"]):
                        notes.append(f"\n`{solver}`, {case}: {row['error']}")
            good = own[own["objective"].notna()]
            cold = f"{good['cold_start_s'].max():.1f} s" if len(good) else "-"
            memory = f"{good['peak_memory_bytes'].max() / 1e6:,.0f} MB" if len(good) else "-"
            parts.append(f"| {solver} | {' | '.join(cells)} | {cold} | {memory} |")
        parts += [*notes, ""]
    return "\n".join(parts)


def _size(rows: pd.DataFrame) -> str:
    good = rows.dropna(subset="objective")
    return f"{good.iloc[0]['groups']:,.0f} groups, {good.iloc[0]['options']:,.0f} options" if len(good) else "no answer"


def _cell(row: pd.Series, best: float) -> str:
    if pd.isna(row["objective"]):
        return "-"
    # sums of the same losses in another order differ by 1e-15
    above = row["objective"] / best - 1 if best else 0.0
    if row["gap"] <= PROVEN:
        return f"{_seconds(row['solve_s'])}, proven"
    gap = f"gap {row['gap']:.1e}" if row["gap"] < 1e9 else "no bound"
    return f"{_seconds(row['solve_s'])}, {f'+{above:.1e}' if above > 1e-12 else 'best'}, {gap}"


def _seconds(value: float) -> str:
    return f"{1e3 * value:.1f} ms" if value < 1 else f"{value:.2f} s"


def _processor() -> str:
    """The model of the processor, as the system calls it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    run(main, "bench_solvers")
