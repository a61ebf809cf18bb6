"""Rate-distortion models: closed forms, hulls by definition, and continuous allocation against a linear program."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linprog

from alloc.rate_distortion import GAUSSIAN, Exponential, Hull, fit_exponential, lower_hull
from alloc.solvers.convex import continuous_rates


def test_the_gaussian_law_loses_six_decibels_a_bit() -> None:
    assert GAUSSIAN.distortion(np.array([0.0, 1.0, 2.5])) == pytest.approx([1.0, 0.25, 2.0**-5])


def test_a_fit_finds_a_law_and_says_how_far_points_are_off() -> None:
    bits = np.array([2.0, 3.0, 4.0, 5.0])
    law = Exponential(factor=1.7, slope=1.95)
    fitted = fit_exponential(bits, law.distortion(bits))
    assert (fitted.factor, fitted.slope) == pytest.approx((1.7, 1.95))
    assert fitted.error_db == pytest.approx(0.0, abs=1e-9)
    bent = law.distortion(bits) * 10 ** (np.array([0.1, -0.1, -0.1, 0.1]) / 10)
    again = fit_exponential(bits, bent)
    off = 10 * np.log10(bent / again.distortion(bits))
    assert again.error_db == pytest.approx(np.abs(off).max())
    assert again.error_db == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("bits", "distortion", "message"), [([3.0, 3.0], [0.1, 0.2], "two different"), ([2.0, 3.0], [0.1, 0.0], "above 0")]
)
def test_points_that_make_no_line_are_refused(bits: list[float], distortion: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_exponential(np.array(bits), np.array(distortion))


def test_the_hull_is_below_every_point_and_no_chord_is_below_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y = rng.integers(0, 8, 7).astype(float), rng.random(7)
        hull = Hull.of(x, y)
        inside = x >= hull.bits[0]
        assert (hull.distortion(x[inside]) <= y[inside] + 1e-12).all()
        slopes = np.diff(hull.distortion_at) / np.diff(hull.bits)
        assert (slopes < 0).all()
        assert (np.diff(slopes) > 0).all()
        points = set(zip(x.tolist(), y.tolist(), strict=True))
        assert set(zip(hull.bits.tolist(), hull.distortion_at.tolist(), strict=True)) <= points
    with pytest.raises(ValueError, match="at least one"):
        Hull.of(np.array([]), np.array([]))


def test_the_hull_of_three_points_by_enumeration() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        x, y = np.arange(5.0), np.sort(rng.random(5))[::-1]
        corners = set(lower_hull(x, y)[0].tolist())
        for at in range(1, 4):
            above = any(
                y[at] >= y[i] + (y[j] - y[i]) * (at - i) / (j - i) for i, j in combinations(range(5), 2) if i < at < j
            )
            assert (float(at) in corners) != above


def test_two_budgets_on_a_hull_are_a_linear_program() -> None:
    """D as the largest of lines: minimise sum a t, t >= every line, costs @ b <= limits."""
    rng = np.random.default_rng(2)
    hull = Hull.of(np.array([2.0, 3.0, 4.0, 6.0]), np.array([0.07, 0.018, 0.005, 0.0004]))
    slopes = np.diff(hull.distortion_at) / np.diff(hull.bits)
    for _ in range(5):
        count = 6
        a, costs = rng.lognormal(size=count), rng.uniform(0.5, 2.0, (2, count))
        limits = costs.sum(axis=1) * rng.uniform(2.5, 4.0, 2)
        found = continuous_rates(hull, a, np.full(count, 2.0), costs, limits, most=6.0)
        lines = [
            (np.r_[slope * np.eye(count)[i], -np.eye(count)[i]], slope * x - y)
            for x, y, slope in zip(hull.bits, hull.distortion_at, slopes, strict=False)
            for i in range(count)
        ]
        above = np.array([row for row, _ in lines] + [np.r_[row, np.zeros(count)] for row in costs])
        right = np.array([value for _, value in lines] + list(limits))
        program = linprog(
            np.r_[np.zeros(count), a], A_ub=above, b_ub=right, bounds=[(2.0, 6.0)] * count + [(0, None)] * count
        )
        assert (costs @ found <= limits * (1 + 1e-7)).all()
        assert (a * hull.distortion(found)).sum() == pytest.approx(program.fun, rel=1e-6)
    with pytest.raises(ValueError, match="below the floors"):
        continuous_rates(hull, np.ones(2), np.full(2, 2.0), np.ones((1, 2)), np.array([3.0]))
