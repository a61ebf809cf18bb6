"""Speed of the trellis encoders: `python -m experiments.bench_encoders out=DIR`.

The measurement is `quantizers.trellis.bench`, on the CPU and, where there is one, on the GPU. Writes encoders.json: for
every search the median and spread of its speed, the counted floor and the fraction of it that is reached, beside the
environment."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from experiments.entry import run, save_run
from experiments.progress import bar
from quantizers.trellis.bench import benchmark

SHOWN = [
    "quantizer", "state_bits", "device", "weights_per_second", "spread", "idle_weights_per_second",
    "floor_weights_per_second", "fraction_of_floor",
]  # fmt: skip


def main(cfg: DictConfig) -> None:
    """Measure and write."""
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    rates, state_bits = [int(rate) for rate in cfg.rates], [int(L) for L in cfg.state_bits]
    with bar("encoders") as progress:
        found = benchmark(
            rates,
            state_bits,
            work=float(cfg.work),
            repeats=int(cfg.repeats),
            devices=list(cfg.devices),
            progress=progress,
        )
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / "encoders.json.partial"
    temporary.write_text(json.dumps(found, indent=1) + "\n")
    temporary.replace(out / "encoders.json")
    save_run(out, cfg)
    frame = pd.DataFrame(found["rows"])
    for speed in ("weights_per_second", "idle_weights_per_second", "floor_weights_per_second"):
        frame[speed] = [f"{value:,.0f}" for value in frame[speed]]
    print(frame[SHOWN].to_string(index=False, float_format="%.2f"))


if __name__ == "__main__":
    run(main, "bench_encoders")
