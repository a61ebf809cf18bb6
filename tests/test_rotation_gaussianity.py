"""Kurtosis against its definition, and that the rotation mends a weight with one loud channel."""

from __future__ import annotations

import pytest
import torch

from quantizers.rotation import Rotation, gaussianity, kurtosis


def test_kurtosis_by_definition() -> None:
    W = torch.tensor([[1.0, -1.0, 1.0, -1.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    # rows: 1 / 1^2 = 1; (16 / 4) / (4 / 4)^2 = 4; the zero row does not count
    assert kurtosis(W) == pytest.approx((1 + 4) / 2)
    assert kurtosis(torch.zeros(2, 3)) == 0.0


def test_a_gaussian_stays_gaussian() -> None:
    W = torch.randn(64, 576, generator=torch.Generator().manual_seed(0))
    found = gaussianity(W, Rotation(in_features=576, seed=0, group="g"))
    # standard error of the kurtosis of 36,864 samples: sqrt(24 / n) = 0.026
    assert found["kurtosis_before"] == pytest.approx(3.0, abs=0.12)
    assert found["kurtosis_after"] == pytest.approx(3.0, abs=0.12)
    assert found["norm_error"] < 1e-6
    assert found["inverse_error"] < 1e-6


def test_heavy_tails_become_gaussian() -> None:
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(64, 1536, generator=generator) * torch.exp(torch.randn(1536, generator=generator))
    found = gaussianity(W, Rotation(in_features=1536, seed=0, group="g"))
    assert found["kurtosis_before"] > 20
    assert found["kurtosis_after"] == pytest.approx(3.0, abs=0.3)


def test_one_loud_channel_is_spread() -> None:
    W = torch.randn(32, 576, generator=torch.Generator().manual_seed(2))
    W[:, 100] *= 60.0  # holds most of the energy: its images are +-c in every column, so the kurtosis falls below 3
    found = gaussianity(W, Rotation(in_features=576, seed=0, group="g"))
    assert found["kurtosis_before"] > 50
    assert found["kurtosis_after"] < 3.2


def test_zero_weight() -> None:
    found = gaussianity(torch.zeros(4, 16), Rotation(in_features=16, seed=0, group="g"))
    assert (found["kurtosis_before"], found["norm_error"], found["inverse_error"]) == (0.0, 0.0, 0.0)
