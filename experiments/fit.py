"""`python -m experiments.fit tables=DIR config=FOLDER out=DIR budget.tokens_per_second=450 budget.bits_per_weight=3.25`

The best model within a speed and a size, in one command: a latency table (shipped, or profiled on the GPU at hand), the
proven optimum of memory and latency together with fusion, the checkpoint where the weights are named, and one token
of that plan timed: predicted beside measured. Each step is the command of its name; DIR gets their artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose
from omegaconf import DictConfig

from experiments import allocate, profile_latency, quantize, verify_latency
from experiments.entry import run, save_run

SHOWN = ["predicted_us", "median_us", "error_percent", "tokens_per_s", "limit_us"]


def main(cfg: DictConfig) -> None:
    """Profile where asked for, allocate, quantize where asked for, measure. ValueError as those commands."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device: the plan's token is timed on a GPU (experiments.allocate needs none)")
    limits = {name: value for name, value in cfg.budget.items() if value is not None}
    if not limits:
        raise ValueError(f"no budget is set; set any of {', '.join(f'budget.{name}' for name in cfg.budget)}")
    out, tables = Path(cfg.out), Path(cfg.out) / "tables"
    source, given = Path(str(cfg.tables)), None if cfg.latency is None else Path(str(cfg.latency))
    collect(source, given, tables)
    if given is None and not (source / "latency.csv").is_file():
        profile(cfg, tables, out / "profile")
    budgets = {f"budget.{name}": value for name, value in limits.items()}
    if "vram_bytes" in limits:
        budgets |= {"budget.context": cfg.context, "budget.config": cfg.config}
    members = {} if cfg.members is None else {"palette.members": cfg.members}
    allocate.main(
        composed("allocate", tables=tables, out=out, fusion=cfg.fusion, batch=cfg.batch, **budgets, **members)
    )
    plan = out / "allocation.json"
    if cfg.weights is not None:
        weights = {
            "model.path": str(cfg.weights),
            "plan": plan,
            "out": out / "checkpoint",
            "state_bits": cfg.state_bits,
        }
        quantize.main(composed("quantize", "model=path", **weights))
    timing = {name: cfg[name] for name in ("config", "context", "replays", "steps", "glue", "device")}
    latency = tables / "latency.csv"
    verify_latency.main(
        composed(
            "verify_latency", latency=latency, out=out, plans=[plan], batches=[cfg.batch], breakdown=False, **timing
        )
    )
    save_run(out, cfg)
    measured = pd.read_csv(out / "verify_latency.csv")
    print(measured[SHOWN].to_string(index=False, float_format="%.2f"))


def collect(source: Path, latency: Path | None, into: Path) -> None:
    """The tables, the latency table among them where there is one. FileNotFoundError where a file is not there."""
    needed = [source / "layers.csv", source / "quantizers.csv", *([] if latency is None else [latency])]
    for path in needed:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there")
    into.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.csv"):
        shutil.copyfile(path, into / path.name)
    if latency is not None:
        shutil.copyfile(latency, into / "latency.csv")


def profile(cfg: DictConfig, tables: Path, folder: Path) -> None:
    """latency.csv of the GPU at hand, into `tables`. It is measured in `folder`, where a killed run goes on."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(tables / "layers.csv", folder / "layers.csv")
    wanted = cfg.members or pd.read_csv(tables / "quantizers.csv").quantizer.tolist()
    asked = {"tables": folder, "quantizers": wanted, "batches": [cfg.batch], "fusion": cfg.fusion}
    profile_latency.main(composed("profile_latency", config=cfg.config, context=cfg.context, **asked))
    shutil.copyfile(folder / "latency.csv", tables / "latency.csv")


def composed(name: str, *overrides: str, **values: Any) -> DictConfig:
    """The config of another command."""
    return compose(name, [*overrides, *(f"{key}={written(value)}" for key, value in values.items())])


def written(value: Any) -> str:
    """As an override: words in quotes, for paths and patterns have signs that Hydra reads."""
    if isinstance(value, str | Path):
        return "'" + str(value).replace("'", "\\'") + "'"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return "[" + ",".join(map(written, value)) + "]"


if __name__ == "__main__":
    run(main, "fit")
