"""Rate-distortion table: `python -m experiments.measure_distortion palette=full state_bits=12 out=DIR`.

Measures every quantizer of a palette on a Gaussian source and writes quantizers.csv (a table that `allocate` reads)
and rate_distortion.csv (the curve, with its distance to the bound D(R) = 4^-R). Nothing is written before all is
measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from experiments.entry import run, save_run
from experiments.progress import bar
from quantizers import palette
from quantizers.distortion import gap_db, gaussian_distortion

COLUMNS = ["quantizer", "bits_per_weight", "codebook_bytes", "distortion", "bytes_per_row", "standard_error"]
CURVE = ["quantizer", "bits_per_weight", "distortion", "standard_error", "weights", "state_bits", "gap_db"]


def main(cfg: DictConfig) -> None:
    """Measure and write."""
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    chosen = palette(list(cfg.palette.members), state_bits=int(cfg.state_bits))
    rows = []
    with bar("rate-distortion") as progress:
        for done, quantizer in enumerate(chosen):
            progress(done, len(chosen), quantizer.name)
            distortion, error = gaussian_distortion(quantizer, weights=int(cfg.weights), seed=int(cfg.seed))
            rows.append(
                {
                    "quantizer": quantizer.name,
                    "bits_per_weight": quantizer.bits_per_weight,
                    "codebook_bytes": 0,  # computed, or stored once per model
                    "distortion": distortion,
                    "bytes_per_row": quantizer.bytes_per_row,
                    "standard_error": error,
                    "weights": int(cfg.weights),
                    "state_bits": int(cfg.state_bits),
                    "gap_db": gap_db(distortion, quantizer.bits_per_weight),
                }
            )
        progress(len(chosen), len(chosen), "")
    frame = pd.DataFrame(rows)
    out.mkdir(parents=True, exist_ok=True)
    for name, columns in (("quantizers.csv", COLUMNS), ("rate_distortion.csv", CURVE)):
        temporary = out / f"{name}.partial"
        frame[columns].to_csv(temporary, index=False)
        temporary.replace(out / name)
    save_run(out, cfg)
    print(frame[["quantizer", "bits_per_weight", "distortion", "standard_error", "gap_db"]].to_string(index=False))


if __name__ == "__main__":
    run(main, "measure_distortion")
