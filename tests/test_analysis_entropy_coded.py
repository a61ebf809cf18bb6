"""The entropy-coded scalar curve against integrals and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from analysis.entropy_coded import HIGH_RATE_GAP_DB, distortion_at, rate_and_distortion


@pytest.mark.parametrize("step", [0.3, 1.0, 2.5, 6.0])
def test_rate_and_distortion_are_their_integrals(step: float) -> None:
    rate = distortion = 0.0
    for k in range(-math.ceil(9 / step), math.ceil(9 / step) + 1):
        low, high = (k - 0.5) * step, (k + 0.5) * step
        mass = quad(norm.pdf, low, high, epsabs=1e-14)[0]
        if mass < 1e-15:
            continue
        level = quad(lambda x: x * norm.pdf(x), low, high, epsabs=1e-14)[0] / mass
        rate -= mass * math.log2(mass)
        distortion += quad(lambda x, c=level: (x - c) ** 2 * norm.pdf(x), low, high, epsabs=1e-14)[0]
    assert rate_and_distortion(step) == pytest.approx((rate, distortion), rel=1e-7)


def test_gap_rises_from_zero_to_the_high_rate_limit() -> None:
    rates = np.array([0.001, 0.01, 0.1, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 10])
    gap = 10 * np.log10(distortion_at(rates) * 4.0**rates)
    assert gap[0] < 0.01
    assert (np.diff(gap) > -1e-6).all()
    np.testing.assert_allclose(gap[-4:], HIGH_RATE_GAP_DB, atol=1e-4)
    assert pytest.approx(1.533, abs=5e-4) == HIGH_RATE_GAP_DB


def test_the_rate_is_the_one_asked_for() -> None:
    with pytest.raises(ValueError, match="12"):
        distortion_at(np.array([1.0, 12.0]))
    # the slope of the curve, dD/dR, through two neighbouring steps
    (r1, d1), (r2, d2) = rate_and_distortion(1.0), rate_and_distortion(1.0001)
    np.testing.assert_allclose(distortion_at(np.array([r1, (r1 + r2) / 2])), [d1, (d1 + d2) / 2], rtol=1e-8)
