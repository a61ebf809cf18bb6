"""The table that every method returns, and what a method needs of a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import pandas as pd
import torch

Progress = Callable[[int, int, str], None]


class Slot(Protocol):
    """A layer of a live model."""

    @property
    def weight(self) -> torch.Tensor:
        """(out, in) view onto the parameter: in-place writes change the model."""


Slots = Mapping[str, Slot]


def sensitivity_table(
    slots: Slots, sensitivity: Sequence[float], standard_error: Sequence[float], method: str
) -> pd.DataFrame:
    """Rows layer, sensitivity, sensitivity_se (nats/token per unit of distortion), sensitivity_method."""
    return pd.DataFrame(
        {
            "layer": list(slots),
            "sensitivity": list(sensitivity),
            "sensitivity_se": list(standard_error),
            "sensitivity_method": method,
        }
    )


def require_slots(slots: Slots) -> None:
    """ValueError unless there is a layer to measure."""
    if not slots:
        raise ValueError("no layer to measure: the model has no linear slots")


def require_windows(windows: torch.Tensor) -> None:
    """ValueError unless there is text: (count >= 1, tokens >= 2)."""
    if windows.dim() != 2 or windows.shape[1] < 2 or len(windows) == 0:
        raise ValueError(f"windows must be (count >= 1, tokens >= 2), not {tuple(windows.shape)}")
