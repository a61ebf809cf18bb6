"""The table that a run ends with: size, quality, predicted beside measured."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from experiments.stages import Stages


def records(frame: pd.DataFrame) -> list[Any]:
    """The rows as objects with the columns as attributes."""
    return list(frame.itertuples(index=False))


def print_summary(summary: pd.DataFrame, stages: Stages, peak_bytes: int) -> None:
    """One row per plan on stdout; times and peak memory below."""
    table = Table(title="Predicted beside measured (loss and KL in nats/token, +- one standard error)")
    table.add_column("plan")
    for title in ("bits/weight", "layers MB", "disk MB", "perplexity", "KL to original", "loss +", "predicted +"):
        table.add_column(title, justify="right")
    for row in records(summary):
        original = row.plan == "reference"
        predicted = "" if math.isnan(row.predicted_loss) else f"{row.predicted_loss:.4f}"
        table.add_row(
            "original (16 bits)" if original else row.plan,
            f"{row.bits_per_weight:.3f}",
            f"{row.memory_bytes / 1e6:.3f}",
            f"{row.disk_bytes / 1e6:.1f}",
            f"{row.perplexity:.3f}",
            "" if original else f"{row.kl:.4f} +- {row.kl_se:.4f}",
            "" if original else f"{row.loss_increase:.4f} +- {row.loss_increase_se:.4f}",
            predicted,
        )
    console = Console(width=130)
    console.print(table)
    windows, tokens = int(summary.windows.iloc[0]), int(summary.tokens.iloc[0])
    console.print(
        f"{tokens} evaluation tokens in {windows} windows that do not overlap; peak memory {peak_bytes / 1e9:.2f} GB"
    )
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.seconds.items())
    kept = f" (kept from an earlier run: {', '.join(stages.skipped)})" if stages.skipped else ""
    console.print(f"stages: {spent}; {sum(stages.seconds.values()):.0f} s in all{kept}")
