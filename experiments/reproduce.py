"""`python -m experiments.reproduce tables=FOLDER [out=DIR] [experiment=paper_memory]`: Q-Palette redone.

Every experiment of conf/experiment/ that is asked for (all of the paper's by default; `experiment=[a,b]` takes some) is
run on the tables folder, and published | ours | difference is printed. DIR holds reproduction.csv (a row a number),
NAME.csv and NAME.{pdf,png,svg} of each experiment, reproduction.md with all tables, and every plan as
plans/NAME/PLAN/allocation.json. Experiments on real models (paper_table3_data_free, paper_table4_data_aware) need a
GPU and a hub, and say so where there is none."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import hydra
import pandas as pd
from omegaconf import DictConfig

from alloc.tables import Tables, read_tables
from analysis import reproduction
from analysis.figures import save
from experiments.entry import run as start
from experiments.entry import save_run
from experiments.paper.comparison import UNITS, Experiment, Material, Outcome
from experiments.paper.perplexity_fit import PerplexityFit
from experiments.paper.perplexity_law import PerplexityLaw
from experiments.workspace import write_csv

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Every experiment, its tables and figures, and the page."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # the PDF's font subset is told glyph by glyph
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    experiments = chosen(cfg)
    material = prepare(cfg, experiments)
    outcomes, seconds = {}, {}
    for name, experiment in experiments.items():
        begin = time.perf_counter()
        outcomes[name] = outcome(name, experiment, material)
        seconds[name] = round(time.perf_counter() - begin, 2)
    comparisons = comparison_frame(outcomes)
    tables = {name: found.table for name, found in outcomes.items() if len(found.table)}
    skipped = {name: found.skipped for name, found in outcomes.items() if found.skipped}
    write_csv(comparisons, out / "reproduction.csv")
    for name, table in tables.items():
        write_csv(table, out / f"{name}.csv")
    for name, figure in reproduction.figures(comparisons, tables).items():
        save(figure, name, out)
    page = reproduction.markdown(comparisons, tables, skipped)
    (out / "reproduction.md").write_text(page + "\n")
    save_run(out, cfg, seconds=seconds)
    print(page)
    print(f"\n{reproduction.count(comparisons)}; {sum(seconds.values()):.1f} s; {out / 'reproduction.md'}")


def chosen(cfg: DictConfig) -> dict[str, Experiment]:
    """name -> experiment of the config. ValueError where there is none."""
    if not cfg.get("experiment"):
        raise ValueError("no experiment; experiment=NAME takes one of conf/experiment/")
    return {str(name): hydra.utils.instantiate(node, _convert_="all") for name, node in cfg.experiment.items()}


def prepare(cfg: DictConfig, experiments: dict[str, Experiment]) -> Material:
    """The tables and the law. ValueError where they are needed and not given, or bad."""
    tables: Tables | None = None
    if cfg.tables is not None:
        tables = read_tables(str(cfg.tables))
    elif needing := [name for name, experiment in experiments.items() if experiment.needs_tables]:
        raise ValueError(f"tables is not set: {needing[0]} works on a tables folder, tables=FOLDER")
    law: PerplexityLaw | None = None
    if tables is not None:
        fit: PerplexityFit = hydra.utils.instantiate(cfg.law, _convert_="all")
        law = fit.fitted(fit.losses(tables)[0])
    folder = None if cfg.tables is None else Path(str(cfg.tables))
    return Material(tables=tables, folder=folder, out=Path(cfg.out), law=law)


def outcome(name: str, experiment: Experiment, material: Material) -> Outcome:
    """What it found, or why the tables (or this machine) do not allow it."""
    try:
        return experiment.run(name, material)
    except (ValueError, FileNotFoundError) as error:
        log.warning("%s: %s", name, error)
        return Outcome(skipped=" ".join(str(error).split()))


def comparison_frame(outcomes: dict[str, Outcome]) -> pd.DataFrame:
    """Rows of reproduction.csv."""
    columns = ["experiment", "case", "quantity", "unit", "published", "ours", "difference", "within", "verdict", "note"]
    return pd.DataFrame(
        [
            {
                "experiment": name,
                "case": row.case,
                "quantity": row.quantity,
                "unit": UNITS[row.quantity],
                "published": "" if row.published is None else str(row.published),
                "ours": row.ours,
                "difference": row.difference,
                "within": row.within,
                "verdict": row.verdict,
                "note": row.note,
            }
            for name, found in outcomes.items()
            for row in found.comparisons
        ],
        columns=columns,
    )


if __name__ == "__main__":
    start(main, "reproduce")
