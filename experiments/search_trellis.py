"""Multipliers and gains of the `trellis` family: `python -m experiments.search_trellis out=DIR`, on a GPU.

The search is `quantizers.trellis.search`; it took the constants of `quantizers.trellis.computed` from the defaults of
this config. Writes constants.json (one row a rate: the multiplier, its gain, its distance to the bound, how the other
candidates did), rewritten after every rate, so that an interrupted search keeps what it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments.entry import run, save_run
from experiments.progress import bar
from quantizers.trellis.closest import gpu
from quantizers.trellis.search import search_rates

SHOWN = ["bits_per_weight", "state_bits", "multiplier", "gain", "gap_db", "screened_median_db", "screened_best_db"]


def main(cfg: DictConfig) -> None:
    """Search and write."""
    device = gpu()
    if device is None:
        raise ValueError("the search takes minutes a rate on a GPU and days on a CPU: it needs a CUDA device and nvcc")
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    quarters = [int(rate) for rate in cfg.quarters]
    rows: list[dict[str, Any]] = []
    with bar("search") as progress:
        progress(0, len(quarters), "")
        for row in search_rates(quarters, int(cfg.candidates), device, int(cfg.seed)):
            rows.append(row)
            out.mkdir(parents=True, exist_ok=True)
            temporary = out / "constants.json.partial"
            temporary.write_text(json.dumps(rows, indent=1) + "\n")
            temporary.replace(out / "constants.json")
            progress(len(rows), len(quarters), f"{quarters[len(rows) - 1] / 4:g} bits")
    save_run(out, cfg)
    frame = pd.DataFrame(rows)
    frame["bits_per_weight"] = frame.quarters / 4
    frame["multiplier"] = [f"{multiplier:#010x}" for multiplier in frame.multiplier]
    print(frame[SHOWN].to_string(index=False))


if __name__ == "__main__":
    run(main, "search_trellis")
