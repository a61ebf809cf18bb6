r"""The lower convex hull of measured (rate, distortion) points: what mixing two neighbouring quantizers can reach.

Between its corners D is linear. Below the first and above the last there is no quantizer: rates are held inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def lower_hull(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Corners of the lower hull of (n,) points that fall with x, ascending in x; O(n log n) (Andrew, 1979)."""
    order = np.lexsort((y, x))
    corners: list[tuple[float, float]] = []
    for px, py in zip(x[order].tolist(), y[order].tolist(), strict=True):
        if corners and (px == corners[-1][0] or py >= corners[-1][1]):
            continue  # costs as much or more, and gains nothing
        while len(corners) > 1:
            (ax, ay), (bx, by) = corners[-2], corners[-1]
            if (by - ay) * (px - bx) < (py - by) * (bx - ax):
                break
            corners.pop()
        corners.append((px, py))
    return np.array([corner[0] for corner in corners]), np.array([corner[1] for corner in corners])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hull:
    """`bits` ascending, `distortion` falling and convex, (corners,) each."""

    bits: Floats
    distortion_at: Floats

    @classmethod
    def of(cls, bits: Floats, distortion: Floats) -> Hull:
        """The hull of measured points. ValueError without a point."""
        if not len(bits):
            raise ValueError("a hull needs at least one quantizer")
        corners = lower_hull(np.asarray(bits, float), np.asarray(distortion, float))
        return cls(bits=corners[0], distortion_at=corners[1])

    def distortion(self, rates: Floats) -> Floats:
        """Same shape as `rates`, which are held within the corners."""
        return np.interp(rates, self.bits, self.distortion_at)

    def expression(self, rates: Any) -> Any:
        """The largest of the lines through neighbouring corners, for a cvxpy variable."""
        import cvxpy as cp

        if len(self.bits) == 1:
            return self.distortion_at[0] + 0.0 * rates
        slopes = np.diff(self.distortion_at) / np.diff(self.bits)
        lines = [y + slope * (rates - x) for x, y, slope in zip(self.bits, self.distortion_at, slopes, strict=False)]
        return cp.maximum(*lines) if len(lines) > 1 else lines[0]
