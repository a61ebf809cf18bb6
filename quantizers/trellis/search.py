r"""The search that the constants of `quantizers.trellis.computed` come from: multipliers of least distortion, on a GPU.

For every rate: random odd multipliers (seeded) on one Gaussian sample with a short seam window; the best few on a fresh
and larger sample with the window in use; for the best of those the gain, in steps of 0.01. A multiplier is worth 0.02
to 0.05 dB against the median one. `python -m quantizers.trellis.search --out FILE` runs where torch and nvcc
are; `python -m experiments.search_trellis` wraps it."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from quantizers.distortion import gap_db
from quantizers.kernels.encode import search_paths
from quantizers.trellis.computed import DEVIATION, LARGEST, native_state_bits, state_value
from quantizers.trellis.mixed_stream import path_states

log = logging.getLogger(__name__)
SCREEN, FINAL, GAIN = 1 << 17, 1 << 19, 1 << 20  # weights
KEPT = 10
RATES = range(5, 25)


def sample(weights: int, seed: int, device: torch.device) -> torch.Tensor:
    """(weights / 256, 256) standard Gaussian numbers."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(weights // 256, 256, generator=generator, device=device)


def gap(source: torch.Tensor, quarters: int, multiplier: int, gain: float, window: int) -> float:
    """dB above the bound of one code on a sample (tiles, 256)."""
    points = (source * (DEVIATION * gain)).round().clamp(-LARGEST, LARGEST).to(torch.int16)
    symbols = search_paths(points, quarters, multiplier=multiplier, window=window)
    states = path_states(symbols, quarters, native_state_bits(quarters))
    decoded = state_value(states.to(torch.int64), multiplier).to(torch.float32) / (DEVIATION * gain)
    error = (source - decoded).square().sum(dtype=torch.float64) / source.square().sum(dtype=torch.float64)
    return gap_db(error.item(), quarters / 4)


def search(quarters: int, candidates: int, device: torch.device, seed: int = 0) -> dict[str, object]:
    """The best multiplier and gain found for one rate, with how all candidates did."""
    rng = np.random.default_rng([seed, quarters])
    multipliers = [int(value) * 2 + 1 for value in rng.integers(1 << 31, size=candidates)]
    gain = max(0.8, round(1.12 - 0.0135 * quarters, 2))  # near the optimum at every rate
    first, second, third = (sample(n, seed + i, device) for i, n in enumerate((SCREEN, FINAL, GAIN)))
    screened = sorted((gap(first, quarters, m, gain, 64), m) for m in multipliers)
    final = sorted((gap(second, quarters, m, gain, 128), m) for _, m in screened[:KEPT])
    best = final[0][1]
    gains = {round(gain + step / 100, 2): 0.0 for step in range(-4, 5)}
    gains = {value: gap(third, quarters, best, value, 128) for value in gains}
    chosen = min(gains, key=gains.__getitem__)
    return {
        "quarters": quarters,
        "state_bits": native_state_bits(quarters),
        "multiplier": best,
        "gain": chosen,
        "gap_db": gains[chosen],
        "screened_median_db": float(np.median([value for value, _ in screened])),
        "screened_best_db": screened[0][0],
        "gains": gains,
        "finalists": final,
    }


def search_rates(
    quarters: Sequence[int], candidates: int, device: torch.device, seed: int = 0
) -> Iterator[dict[str, object]]:
    """`search` rate by rate. ValueError on a rate or a number of candidates that cannot be searched."""
    if not set(quarters) <= set(RATES):
        raise ValueError(f"quarters are {RATES[0]} to {RATES[-1]}, not {list(quarters)}")
    if candidates < KEPT:
        raise ValueError(f"candidates is at least {KEPT}, not {candidates}")
    for rate in quarters:
        row = search(rate, candidates, device, seed)
        log.info(
            "%5.2f bits: multiplier %#010x, gain %.2f, gap %.4f dB (median of the screen %.4f, its best %.4f)",
            rate / 4, row["multiplier"], row["gain"], row["gap_db"], row["screened_median_db"], row["screened_best_db"],
        )  # fmt: skip
        yield row


def main(arguments: Sequence[str] | None = None) -> None:
    """Search every rate asked for and write JSON."""
    parser = argparse.ArgumentParser(description="search the multipliers of the computed trellis code on a GPU")
    parser.add_argument("--quarters", type=int, nargs="*", default=list(RATES), help="4 x rate, 5 .. 24")
    parser.add_argument("--candidates", type=int, default=250, help="random multipliers for each rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(message)s")
    rows = []
    for row in search_rates(options.quarters, options.candidates, torch.device("cuda"), options.seed):
        rows.append(row)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
