"""The error feedback of a run: a method, and the second moments that it reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from quantizers.base import Encoded, Quantizer
from quantizers.feedback.method import Feedback, weighted_energy
from quantizers.feedback.moments import SecondMoments
from quantizers.feedback.plain import Plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """`moments` is None exactly where the method does not read them (ValueError else)."""

    method: Feedback
    moments: SecondMoments | None = None

    def __post_init__(self) -> None:
        if self.method.needs_moments != (self.moments is not None):
            raise ValueError(
                f"feedback={self.method.name} reads {'the' if self.method.needs_moments else 'no'} second moments of "
                "python -m experiments.calibrate"
            )

    def moment(self, group: str) -> torch.Tensor | None:
        """H (in, in) of a fusion group, in the rotated basis; None without feedback."""
        return None if self.moments is None else self.moments.moment(group)

    def facts(self, moment: torch.Tensor | None) -> dict[str, Any] | None:
        """What decides the codes besides weight, quantizer and rotation, JSON-able; None without feedback."""
        if moment is None:
            return None
        return {**self.method.settings(), "moment": hashlib.sha256(moment.contiguous().numpy().tobytes()).hexdigest()}

    def encode(self, quantizer: Quantizer, weight: torch.Tensor, moment: torch.Tensor | None) -> Encoded:
        """Codes of weight (out, in), rotated. ValueError as `Feedback.encode`."""
        return quantizer.encode(weight) if moment is None else self.method.encode(quantizer, weight, moment)


PLAIN = Correction(method=Plain())


def relative_error(weight: torch.Tensor, decoded: torch.Tensor, moment: torch.Tensor | None) -> float:
    """The distortion |E|^2 / |W|^2, or under feedback tr(E H E') / tr(W H W'); 0 where W is."""
    measure = energy if moment is None else lambda matrix: weighted_energy(matrix, moment)
    total = measure(weight)
    return measure(weight - decoded) / total if total > 0.0 else 0.0


def energy(matrix: torch.Tensor) -> float:
    """|W|^2; along rows in float32, over rows in float64."""
    return float(matrix.square().sum(dim=1).double().sum())
