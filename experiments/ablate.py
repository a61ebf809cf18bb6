"""`python -m experiments.ablate study=NAME tables=FOLDER out=DIR [measure=true]`: what a part of the method buys.

A study (conf/study/) solves variants under several budgets on the tables: seconds. `measure=true` also encodes every
plan into the model and gives its KL on the same windows with standard errors, paired with the study's baseline; without
`tables` the model's own are made first, as experiments.pipeline does. Everything slow is kept in `cache`.
`quantizers=FILE` adds the rows of another quantizers.csv that the tables lack. DIR holds ablation.csv, ablation.md and
the figure."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import hydra
import pandas as pd
from omegaconf import DictConfig
from rich.console import Console
from rich.logging import RichHandler

from alloc.tables import read_tables
from analysis import ablation
from analysis.figures import save
from experiments.entry import run as start
from experiments.entry import save_run
from experiments.stages import Stages
from experiments.studies import Cell, Material, Study
from experiments.studies.measuring import measure
from experiments.table_stages import count_storage, make_inventory, measure_rates, measure_sensitivities
from experiments.workspace import Workspace, write_csv
from quantizers.evaluation.summary import mean_and_error

UNPREDICTED = "tables predict plain encoding of rotated weights only"
TABLES = ("layers.csv", "quantizers.csv", "storage.csv", "distortion.csv", "loss.csv", "costs.csv", "latency.csv")


def main(cfg: DictConfig) -> None:
    """Tables, cells, measurements, table and figure."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # the PDF's font subset is told glyph by glyph
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    study: Study = hydra.utils.instantiate(cfg.study, _convert_="all")
    run = Workspace(cfg=cfg, folder=out) if cfg.measure or cfg.tables is None else None
    material = prepare(cfg, out, run)
    cells = study.cells(material)
    frame = table(study, cells, material)
    if run is not None and cfg.measure:
        windows = measure(run, cells, hessians=material.hessians, together=cfg.together)
        frame = with_measured(frame, windows, study.baseline)
        frame.loc[frame.kl.notna(), "reason"] = ""
    write_csv(frame, out / "ablation.csv")
    page = ablation.markdown(frame)
    (out / "ablation.md").write_text(page + "\n")
    drawn = (frame.predicted_loss > 0).any()
    paths = save(ablation.figure(frame), f"ablation_{study.name}", out) if drawn else []
    save_run(out, cfg, seconds=material.stages.seconds, skipped=material.stages.skipped)
    print(page)
    print("\n".join(str(path) for path in (out / "ablation.csv", out / "ablation.md", *paths)))


def prepare(cfg: DictConfig, out: Path, run: Workspace | None) -> Material:
    """The tables, given or made. FileNotFoundError or ValueError as read_tables."""
    stages = run.stages if run is not None else Stages(out, cache=Path(cfg.cache) / "stages")
    if cfg.tables is None:
        assert run is not None
        for stage in (make_inventory, measure_rates, count_storage, measure_sensitivities):
            stage(run)
        folder = out
    elif cfg.quantizers is None:
        folder = Path(str(cfg.tables))
    else:
        folder = joined(Path(str(cfg.tables)), Path(str(cfg.quantizers)), out / "tables")
    return Material(
        tables=read_tables(folder),
        folder=Path(str(cfg.tables)) if cfg.tables is not None else out,
        stages=stages,
        run=run,
        hessians=None if cfg.hessians is None else Path(str(cfg.hessians)),
    )


def joined(tables: Path, more: Path, out: Path) -> Path:
    """A tables folder `out`: `tables`, and the rows of `more` for quantizers that it lacks. The folder."""
    read_tables(tables)  # a bad folder is its own error, before anything is copied
    own, added = pd.read_csv(tables / "quantizers.csv", dtype=str), pd.read_csv(more, dtype=str)
    if "quantizer" not in added.columns:
        raise ValueError(f"{more} has no column 'quantizer', only {list(added.columns)}")
    out.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        if (tables / name).is_file():
            shutil.copyfile(tables / name, out / name)
    new = added[~added.quantizer.isin(own.quantizer)]
    write_csv(pd.concat([own, new]).fillna({"bytes_per_row": "0"}), out / "quantizers.csv")
    return out


def table(study: Study, cells: Sequence[Cell], material: Material) -> pd.DataFrame:
    """ablation.csv without measurements."""
    params = int(material.tables.params[material.tables.allocatable].sum())
    rows = []
    for cell in cells:
        solution = cell.solution
        memory = math.nan if solution is None else solution.costs["memory_bytes"]
        bounded = not math.isnan(cell.predicted_loss + cell.lower_bound) and cell.predicted_loss > 0
        rows.append(
            {
                "study": study.name,
                "variant": cell.variant,
                "budget": cell.budget,
                "predicted_loss": cell.predicted_loss,
                "lower_bound": cell.lower_bound,
                "gap": 1.0 - cell.lower_bound / cell.predicted_loss if bounded else math.nan,
                "bits_per_weight": 8.0 * memory / params,
                "memory_bytes": memory,
                "latency_us": math.nan if solution is None else solution.costs.get("latency_us", math.nan),
                "runtime_s": math.nan if solution is None else solution.runtime_s,
                "reason": cell.reason or (UNPREDICTED if solution is not None and not bounded else ""),
            }
        )
    return pd.DataFrame(rows)


def with_measured(frame: pd.DataFrame, windows: dict[int, pd.DataFrame], baseline: str) -> pd.DataFrame:
    """`frame` with kl, kl_se, and difference, difference_se to the baseline of the same budget on the same windows."""
    frame = frame.assign(kl=math.nan, kl_se=math.nan, difference=math.nan, difference_se=math.nan, windows=0)
    columns = ["kl", "kl_se", "difference", "difference_se", "windows"]
    base = {frame.budget[at]: own for at, own in windows.items() if frame.variant[at] == baseline}
    for at, own in windows.items():
        difference = (math.nan, math.nan)
        reference = base.get(frame.budget[at])
        if reference is not None and frame.variant[at] != baseline:
            paired = own.set_index("window").kl - reference.set_index("window").kl
            difference = mean_and_error(paired.to_numpy(dtype=float))
        frame.loc[at, columns] = [*mean_and_error(own.kl.to_numpy(dtype=float)), *difference, len(own)]
    return frame


if __name__ == "__main__":
    start(main, "ablate")
