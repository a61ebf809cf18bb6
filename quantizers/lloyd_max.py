r"""The scalar quantizer of a standard Gaussian with least squared error (Lloyd, 1957/1982; Max, 1960).

With levels c_1 < .. < c_n and thresholds t_i = (c_i + c_(i+1)) / 2, both optimality conditions hold:

    c_i = E[x | t_(i-1) < x < t_i]      (every level is the centroid of its cell)

The gradient of the error is 2 (c_i P_i - M_i), P_i the mass and M_i the first moment of cell i; its Hessian is
tridiagonal, so Newton's method from the asymptotic density f^(1/3) (Panter and Dite, 1951) takes a few steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded
from scipy.special import ndtr, ndtri

Levels = NDArray[np.float64]


def _density(x: Levels) -> Levels:
    return np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def cells(levels: Levels) -> tuple[Levels, Levels, Levels]:
    """Thresholds (n + 1, infinite at the ends), masses (n) and first moments (n) of the nearest-level cells."""
    inner = (levels[1:] + levels[:-1]) / 2
    thresholds = np.concatenate([[-np.inf], inner, [np.inf]])
    return thresholds, np.diff(ndtr(thresholds)), -np.diff(_density(thresholds))


def lloyd_max(count: int) -> Levels:
    """`count` levels, ascending and symmetric, float64."""
    # density f^(1/3) is a Gaussian of standard deviation sqrt(3)
    levels = np.sqrt(3) * ndtri((np.arange(count) + 0.5) / count)
    for step in range(100):
        thresholds, mass, moment = cells(levels)
        if step < 20:  # Lloyd's own step first: Newton's converges only near the optimum
            levels = moment / mass
            continue
        gradient = levels * mass - moment
        # the mass that a moving threshold brings: half the gap on either side times the density there
        border = (levels[1:] - levels[:-1]) / 4 * _density(thresholds[1:-1])
        bands = np.zeros((3, count))
        bands[0, 1:] = -border
        bands[1] = mass - np.append(border, 0) - np.append(0, border)
        bands[2, :-1] = -border
        change = solve_banded((1, 1), bands, gradient)
        levels = levels - change
        if np.abs(change).max() < 1e-13:
            break
    return (levels - levels[::-1]) / 2
