r"""Perplexity from the predicted loss: perplexity = base exp(k loss), base that of the 16-bit model.

The linearity theorem (Malinovskii et al., HIGGS, arXiv 2411.17525) has log perplexity grow linearly in the sum of
sensitivity x distortion; k would be 1 on the text that the sensitivities were measured on. k is fitted by least squares
through the origin, k = sum x y / sum x^2 with x the loss and y = ln(perplexity / base)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityLaw:
    """base exp(slope loss), loss in nats/token."""

    base: float
    slope: float

    def perplexity(self, loss: float) -> float:
        """The law."""
        return self.base * math.exp(self.slope * loss)


def fit_law(base: float, points: Sequence[tuple[float, float]]) -> PerplexityLaw:
    """points: (loss, perplexity), at least one with a loss that is not 0. ValueError otherwise."""
    square = sum(loss * loss for loss, _ in points)
    if not square > 0:
        raise ValueError(f"a slope needs a plan that loses something, not {list(points)}")
    return PerplexityLaw(
        base=base, slope=sum(loss * math.log(perplexity / base) for loss, perplexity in points) / square
    )
