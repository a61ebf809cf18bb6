"""Scalar and vector codebooks against their optimality conditions; nearest points against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from quantizers import make_quantizer
from quantizers.distortion import gaussian_distortion
from quantizers.k_means import gaussian_k_means, nearest
from quantizers.lloyd_max import lloyd_max
from quantizers.sampled_k_means import sampled_k_means


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_centroids_of_their_nearest_cells(bits: int) -> None:
    levels = lloyd_max(1 << bits)
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    assert (np.diff(levels) > 0).all()
    for level, low, high in zip(levels, edges[:-1], edges[1:], strict=True):
        mass = quad(norm.pdf, low, high, epsabs=1e-14)[0]
        moment = quad(lambda x: x * norm.pdf(x), low, high, epsabs=1e-14)[0]
        assert level == pytest.approx(moment / mass, abs=1e-6)


def test_two_levels_are_the_closed_form() -> None:
    assert lloyd_max(2) == pytest.approx([-np.sqrt(2 / np.pi), np.sqrt(2 / np.pi)], abs=1e-12)


def test_nearest_is_brute_force() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((300, 2)).astype(np.float32)
    points = points[np.argsort(points[:, 0])]
    samples = (3 * rng.standard_normal((2000, 2))).astype(np.float32)
    distance = ((samples[:, None] - points[None]) ** 2).sum(2)
    found = nearest(samples, points)
    assert distance[np.arange(2000), found] == pytest.approx(distance.min(1), rel=1e-5, abs=1e-7)


def test_k_means_points_are_centroids_and_ascend() -> None:
    points = gaussian_k_means(16, steps=60, samples=1 << 14)
    x = np.random.default_rng(1).standard_normal((1 << 18, 2)).astype(np.float32)
    index = nearest(x, points.astype(np.float32))
    assert (np.diff(points[:, 0]) >= 0).all()
    for i, point in enumerate(points):
        mine = x[index == i]
        error = mine.std(0) / np.sqrt(len(mine))
        assert (np.abs(mine.mean(0) - point) < 5 * error + 0.01).all()  # 0.01: the samples of the k-means itself


def test_k_means_of_one_point_is_the_mean() -> None:
    assert gaussian_k_means(1, steps=20, samples=1 << 14) == pytest.approx(np.zeros((1, 2)), abs=0.01)


def test_sampled_k_means_ends_where_a_step_gains_little() -> None:
    """Its steps by brute force, from the same random numbers."""
    count, samples, threshold = 32, 1 << 12, 1e-3
    found = sampled_k_means(count, samples=samples, threshold=threshold, rng=np.random.default_rng(3))
    rng = np.random.default_rng(3)
    points, x = rng.standard_normal((count, 2)), rng.standard_normal((samples, 2))
    distances = []
    while len(distances) < 2 or distances[-2] - distances[-1] > threshold:
        apart = np.linalg.norm(x[:, None] - points[None], axis=2)
        distances.append(apart.min(1).mean())
        last, cell = points, apart.argmin(1)
        points = np.stack([x[cell == i].mean(0) if (cell == i).any() else points[i] for i in range(count)])
    assert len(distances) > 3
    assert found == pytest.approx(last[np.argsort(last[:, 0])], abs=1e-3)


@pytest.mark.parametrize("name", ["nuq-2", "nuq-5", "nuq-8", "vq-1.5", "vq-3"])
def test_every_weight_has_its_nearest_code(name: str) -> None:
    quantizer = make_quantizer(name)
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    codebook = quantizer.codebook()
    assert codebook is not None
    points = codebook.float().view(codebook.shape[0], -1)
    decoded = quantizer.decode(quantizer.encode(weight))
    scale = weight.double().square().mean(1).sqrt().half().float()
    source = (weight / scale[:, None]).view(-1, points.shape[1])
    best = (source[:, None].double() - points[None].double()).square().sum(2).argmin(1)
    expected = points[best].view(3, 64).double()
    fitted = (weight * expected).sum(1) / expected.square().sum(1)
    torch.testing.assert_close(decoded.double(), expected * fitted[:, None], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_scalar_distortion_is_the_integral(bits: int) -> None:
    levels = lloyd_max(1 << bits)
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    cells = zip(levels, edges[:-1], edges[1:], strict=True)
    exact = sum(quad(lambda x, c=c: (x - c) ** 2 * norm.pdf(x), low, high)[0] for c, low, high in cells)
    measured, error = gaussian_distortion(make_quantizer(f"nuq-{bits}"), weights=1 << 19)
    # normalizing a row of 1024 removes what its own norm varies: below the infinite row by at most 1 %
    assert exact * 0.99 - 4 * error < measured < exact * 1.001 + 4 * error


@pytest.mark.parametrize("name", ["nuq-3", "vq-2"])
def test_codebook_in_disorder_is_refused(name: str) -> None:
    quantizer = make_quantizer(name)
    codebook = quantizer.codebook()
    assert codebook is not None
    with pytest.raises(ValueError, match="ascend"):
        quantizer.with_codebook(codebook.flip(0))
