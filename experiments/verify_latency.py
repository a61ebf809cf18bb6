"""`python -m experiments.verify_latency config=FOLDER latency=FILE out=DIR`: predicted beside measured time of a token.

FOLDER holds config.json; FILE is latency.csv of `experiments.profile_latency`, frozen before. DIR gets steps.json (all
that was measured, with bytes, limits and the breakdown) and verify_latency.csv. A wrapper: the measuring code is
`python -m quantizers.kernels.decode_step`, which needs nothing but torch, pandas, transformers and nvcc."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from experiments.entry import run, save_run
from quantizers.kernels import decode_step
from quantizers.kernels.build import KernelUnavailableError, here

SETTINGS = (
    "config",
    "latency",
    "head",
    "context",
    "step",
    "attention",
    "glue",
    "constant",
    "device",
    "replays",
    "steps",
)
COLUMNS = ["plan", "batch", "constant_us", "predicted_us", "median_us", "error_percent", "tokens_per_s", "limit_us"]


def main(cfg: DictConfig) -> None:
    """Measure every plan; write both files and the command's record."""
    if cfg.device == "cuda":
        try:
            here()
        except KernelUnavailableError as error:
            raise ValueError(str(error)) from None
    out = Path(cfg.out)
    given = {name: cfg[name] for name in SETTINGS if cfg[name] is not None}
    arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    arguments += ["--plans", *map(str, cfg.plans), "--batches", *map(str, cfg.batches)]
    arguments += ["--breakdown"] if cfg.breakdown else []
    decode_step.measure_all(decode_step.parsed([*arguments, "--out", str(out / "steps.json")]))
    rows = pd.DataFrame(json.loads((out / "steps.json").read_text())["steps"])
    rows[COLUMNS].to_csv(out / "verify_latency.csv", index=False)
    save_run(out, cfg, worst_error_percent=float(rows.error_percent.abs().max()))
    print(out / "verify_latency.csv")


if __name__ == "__main__":
    run(main, "verify_latency")
