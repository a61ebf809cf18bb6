"""No feedback: every column for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.feedback.method import Feedback


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain(Feedback):
    """`feedback=none`: H is not read."""

    name: ClassVar[str] = "none"
    needs_moments: ClassVar[bool] = False

    def settings(self) -> dict[str, Setting]:
        return {"feedback": self.name}

    def encode(self, quantizer: Quantizer, weight: torch.Tensor, moment: torch.Tensor) -> Encoded:
        return quantizer.encode(weight)
