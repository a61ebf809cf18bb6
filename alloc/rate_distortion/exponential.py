r"""D(b) = factor 2^(-slope b): factor 1 and slope 2 are the distortion-rate function of a Gaussian source.

A family of quantizers stays a nearly constant factor above it: trellis codes 1.08 to 1.2, scalar ones 1.9 to 2.6, with
a slope a little below 2. `fit_exponential` is the least-squares line through log2 D; its error is the largest distance
of a point, in dB."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DECIBEL_PER_BIT = 10.0 * math.log10(2.0)  # of a factor of two


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """`error_db`: how far the points it was fitted to are from it at most; 0 for a law."""

    factor: float = 1.0
    slope: float = 2.0
    error_db: float = 0.0

    def __post_init__(self) -> None:
        if not (self.factor > 0 and self.slope > 0 and math.isfinite(self.factor) and math.isfinite(self.slope)):
            raise ValueError(f"factor and slope are finite and above 0, not {self.factor} and {self.slope}")

    def distortion(self, rates: Floats) -> Floats:
        """Same shape as `rates`, in bits per weight."""
        return self.factor * np.exp2(-self.slope * np.asarray(rates, float))

    def expression(self, rates: Any) -> Any:
        """The same for a cvxpy variable: a convex expression."""
        import cvxpy as cp

        return self.factor * cp.exp(-self.slope * math.log(2.0) * rates)


GAUSSIAN = Exponential()


def fit_exponential(bits: Floats, distortion: Floats) -> Exponential:
    """Least squares in log2 D. bits, distortion: (n,) of quantizers of one family, lossless ones left out.

    Raises ValueError with fewer than two rates or a distortion that is not above 0."""
    bits, distortion = np.asarray(bits, float), np.asarray(distortion, float)
    if len(np.unique(bits)) < 2:
        raise ValueError(f"a slope needs two different rates, not {sorted(set(bits.tolist()))}")
    if not (distortion > 0).all():
        raise ValueError(f"distortions must be above 0, not {distortion.min()}")
    negative_slope, constant = np.polyfit(bits, np.log2(distortion), 1)
    off = np.log2(distortion) - (constant + negative_slope * bits)
    return Exponential(
        factor=float(2.0**constant), slope=float(-negative_slope), error_db=float(np.abs(off).max() * DECIBEL_PER_BIT)
    )
