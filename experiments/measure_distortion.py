"""Rate-distortion table: `python -m experiments.measure_distortion palette=full state_bits=12 out=DIR`.

Measures every quantizer of a palette on a Gaussian source and writes quantizers.csv (a table that `allocate` reads),
rate_distortion.csv (the curve, with its distance to the bound D(R) = 4^-R), both with standard errors, and the figure
rate_distortion.{pdf,png,svg}, beside the points of `published=FOLDER` (its quantizers.csv) where one is given. Nothing
is written before all is measured."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from analysis import rate_distortion
from analysis.artifacts import BY_FILE, read_table
from analysis.figures import save
from experiments.entry import run, save_run
from experiments.progress import bar
from quantizers import palette
from quantizers.base import Quantizer, bytes_per_layer
from quantizers.distortion import gap_db, gap_error_db, gaussian_distortion

COLUMNS = ["quantizer", "bits_per_weight", "codebook_bytes", "distortion", "bytes_per_row", "standard_error"]
CURVE = ["quantizer", "bits_per_weight", "distortion", "standard_error", "weights", "state_bits", "gap_db", "gap_db_se"]


def measured(quantizer: Quantizer, *, weights: int, seed: int, state_bits: int) -> dict[str, object]:
    """A row of both tables: storage, and distortion on `weights` Gaussian numbers with its standard error."""
    distortion, error = gaussian_distortion(quantizer, weights=weights, seed=seed)
    return {
        "quantizer": quantizer.name,
        "bits_per_weight": quantizer.bits_per_weight,
        "codebook_bytes": bytes_per_layer(quantizer),
        "distortion": distortion,
        "bytes_per_row": quantizer.bytes_per_row,
        "standard_error": error,
        "weights": weights,
        "state_bits": state_bits,
        "gap_db": gap_db(distortion, quantizer.bits_per_weight),
        "gap_db_se": gap_error_db(distortion, error),
    }


def main(cfg: DictConfig) -> None:
    """Measure and write."""
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    published = None
    if cfg.published is not None:
        published = read_table(Path(cfg.published) / "quantizers.csv", BY_FILE["quantizers.csv"])
    chosen = palette(list(cfg.palette.members), state_bits=int(cfg.state_bits))
    rows = []
    with bar("rate-distortion") as progress:
        for done, quantizer in enumerate(chosen):
            progress(done, len(chosen), quantizer.name)
            rows.append(
                measured(quantizer, weights=int(cfg.weights), seed=int(cfg.seed), state_bits=int(cfg.state_bits))
            )
        progress(len(chosen), len(chosen), "")
    frame = pd.DataFrame(rows)
    out.mkdir(parents=True, exist_ok=True)
    for name, columns in (("quantizers.csv", COLUMNS), ("rate_distortion.csv", CURVE)):
        temporary = out / f"{name}.partial"
        frame[columns].to_csv(temporary, index=False)
        temporary.replace(out / name)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # the PDF's font subset is told glyph by glyph
    if len(rate_distortion.drawable(frame)):
        save(rate_distortion.figure(frame, published), "rate_distortion", out)
    save_run(out, cfg)
    print(frame[["quantizer", "bits_per_weight", "distortion", "standard_error", *CURVE[-2:]]].to_string(index=False))


if __name__ == "__main__":
    run(main, "measure_distortion")
