r"""Every weight counts alike: a_l = total * n_l / sum n, the baseline that every measured sensitivity must beat.

With it a plan spends the same rate everywhere, as far as the palette allows (reverse water-filling with a_l / n_l
constant)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import nn

from alloc.sensitivity.table import Progress, Slots, require_slots, sensitivity_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """`total`: nats/token per unit of distortion of the whole model. No model is run; the standard error is unknown."""

    name: ClassVar[str] = "constant"
    total: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.total < math.inf:
            raise ValueError(f"total must be positive and finite, not {self.total}")

    def measure(
        self,
        model: nn.Module,
        slots: Slots,
        windows: torch.Tensor,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Neither model, windows nor generator are used."""
        require_slots(slots)
        sizes = [slot.weight.numel() for slot in slots.values()]
        values = [self.total * size / sum(sizes) for size in sizes]
        return sensitivity_table(slots, values, [math.nan] * len(values), self.name)
