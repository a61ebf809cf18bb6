"""`python -m experiments.fronts tables=FOLDER out=DIR`: predicted loss against tokens per second and against bytes.

One front each for our palette with fusion, without, and the published palette, beside uniform plans and 16 bits; what
`decode_step` measured of uniform plans stands on top. With `plan=FILE` also the map of that allocation: what each layer
got, and what is one product. DIR gets every number that is drawn, in fronts.csv."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from alloc.solution import read_allocation
from alloc.tables import Tables, read_tables
from analysis import bit_map
from analysis import fronts as figures
from analysis.figures import save
from experiments.allocate import flag, strings, whole
from experiments.entry import run, save_run
from experiments.pareto import front_table, unlimited
from experiments.workspace import write_csv

BUDGETS = ("latency_us", "memory_bytes")
FP16 = "fp16"
COLUMNS = ["curve", "budget", "plan", "solver", "predicted_loss", "memory_bytes", "latency_us", "tokens_per_second"]


def main(cfg: DictConfig) -> None:
    """Read the tables, make the fronts, write the figures and fronts.csv."""
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    tables = read_tables(str(cfg.tables))
    if tables.latency is None:
        raise ValueError(f"tables={cfg.tables} has no latency.csv; experiments.profile_latency measures one")
    frame = all_fronts(tables, cfg)
    if cfg.steps is not None:
        frame = pd.concat([frame, measured_points(Path(str(cfg.steps)), tables, whole("batch", cfg.batch))])
    drawn = {"fronts": figures.figure(frame)}
    if cfg.plan is not None:
        drawn["choices"] = bit_map.figure(choices(Path(str(cfg.plan)), tables))
    write_csv(frame, out / "fronts.csv")
    paths = [path for name, figure in drawn.items() for path in save(figure, name, out)]
    save_run(out, cfg)
    print("\n".join(str(path) for path in (out / "fronts.csv", *paths)))


def all_fronts(tables: Tables, cfg: DictConfig) -> pd.DataFrame:
    """Rows of COLUMNS: each curve against each budget, and the uniform plans once."""
    names = [name for name in tables.quantizers if name != FP16 or flag("fp16", cfg.fp16)]
    patterns = strings("published", cfg.published)
    published = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    curves: dict[str, dict[str, Any]] = {
        figures.OURS: {"members": names, "fusion": True},
        figures.UNFUSED: {"members": names, "fusion": False},
    }
    if published:
        curves[figures.PUBLISHED] = {"members": published, "fusion": True}
    frames = []
    for curve, options in curves.items():
        for budget in BUDGETS:
            if (curve, budget) == (figures.UNFUSED, "memory_bytes"):
                continue  # fusion changes no bytes
            problem = unlimited(
                tables, budget, exclude=strings("exclude", cfg.exclude), batch=whole("batch", cfg.batch), **options
            )
            rows = front_table(problem, points=whole("points", cfg.points), exact=whole("exact", cfg.exact))
            uniform = rows.solver == figures.UNIFORM
            rows = rows.assign(curve=[figures.UNIFORM if each else curve for each in uniform])
            frames.append(rows if curve == figures.OURS else rows[~uniform])
    return pd.concat(frames, ignore_index=True).reindex(columns=COLUMNS)


def measured_points(path: Path, tables: Tables, batch: int) -> pd.DataFrame:
    """Steps of uniform plans of this batch, with their predicted loss; plans of other names have none in the tables."""
    distortion = dict(zip(tables.quantizers, tables.distortion, strict=True))
    total = float(tables.sensitivity[tables.sensitivity > 0].sum())
    rows = []
    for step in json.loads(path.read_text())["steps"]:
        name = step["plan"].partition(":")[0]
        if step["batch"] == batch and name in distortion:
            rows.append({"curve": figures.MEASURED, "budget": "latency_us", "plan": step["plan"], "solver": "measured",
                         "predicted_loss": total * distortion[name], "memory_bytes": step["bytes"]["layers"],
                         "latency_us": step["median_us"], "tokens_per_second": step["tokens_per_s"]})  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def choices(path: Path, tables: Tables) -> pd.DataFrame:
    """What each layer of an allocation got: plan, layer, quantizer, bits_per_weight, unit."""
    bits = dict(zip(tables.quantizers, map(float, tables.bits_per_weight), strict=True))
    rows = [
        (path.parent.name, name, choice.quantizer, bits[choice.quantizer], "+".join(sorted([name, *choice.fused_with])))
        for name, choice in read_allocation(path).layers.items()
    ]
    return pd.DataFrame(rows, columns=pd.Index(["plan", "layer", "quantizer", "bits_per_weight", "unit"]))


if __name__ == "__main__":
    run(main, "fronts")
