r"""Fisher sensitivities, scaled so that their sum is right where plans operate.

sum_l a_l d is the KL of all layers disturbed together only as long as it is quadratic in the noise. One number
corrects it: scale = KL measured with Gaussian noise of distortion d on all layers / sum_l a_l d, on calibration text.
The ranking and every comparison of plans stay Fisher's; the predicted loss is that of the operating point.

Cost: Fisher's, and two forwards a window."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import torch
from torch import nn

from alloc.sensitivity.fisher import Fisher
from alloc.sensitivity.joint import joint_loss
from alloc.sensitivity.table import Progress, Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """`distortion` of the joint noise (0.006 is that of 4 bits), on the first `count` windows, cut to `tokens`."""

    name: ClassVar[str] = "calibrated"
    fisher: Fisher = field(default_factory=Fisher)
    distortion: float = 0.006
    count: int = 6
    tokens: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.distortion < 1 or self.count < 1 or self.tokens < 2:
            raise ValueError(f"calibrated needs distortion within (0, 1), count >= 1, tokens >= 2, not {self}")

    def measure(
        self,
        model: nn.Module,
        slots: Slots,
        windows: torch.Tensor,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """windows: (count, T) token ids. ValueError where there are fewer than `count`. The scale's own relative error
        joins each layer's in sensitivity_se."""
        if len(windows) < self.count:
            raise ValueError(f"calibrated on {self.count} windows, but there are only {len(windows)}")
        table = self.fisher.measure(model, slots, windows, generator=generator, progress=progress)
        joint = joint_loss(
            model,
            slots,
            windows[: self.count, : self.tokens],
            dict.fromkeys(slots, self.distortion),
            generator=generator,
            antithetic=False,
            progress=progress,
        )
        scale = joint.kl / (table.sensitivity.sum() * self.distortion)
        own = table.sensitivity_se / table.sensitivity
        relative = own.pow(2).add(0.0 if math.isnan(joint.kl_se) else (joint.kl_se / joint.kl) ** 2).pow(0.5)
        sensitivity = table.sensitivity * scale
        return table.assign(
            sensitivity=sensitivity, sensitivity_se=sensitivity * relative, sensitivity_method=self.name
        )
