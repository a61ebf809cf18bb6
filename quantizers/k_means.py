r"""Two-dimensional k-means of a standard Gaussian (Linde, Buzo and Gray, 1980, doi:10.1109/TCOM.1980.1094577).

The best density of n points is f^(1/2), a Gaussian of standard deviation sqrt(2) (Zador, 1982). Samples are drawn with
that density from a low-discrepancy sequence, so that all cells hold as many, and weigh w = f / f^(1/2) = f^(1/2); the
points start on a sunflower spiral of the same density, whose arms are locally near hexagonal. No random numbers: the
same points everywhere. Each step moves a point past the centroid of its cell, which converges several times faster.

The nearest point is found exactly: points are sorted by the first coordinate and visited outwards from the sample's own
until the first coordinate alone is too far; about sqrt(n) visits."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Points = NDArray[np.float32]
OVERSHOOT = 1.7  # a point moves this many times the way to its centroid; 2 would be unstable


@njit(cache=True, error_model="numpy")
def _nearest_one(x: float, y: float, points: Points) -> int:
    count = points.shape[0]
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        if points[middle, 0] < x:
            low = middle + 1
        else:
            high = middle
    right = low
    left = low - 1
    best = np.float32(np.inf)
    found = 0
    while True:
        ahead = points[right, 0] - x if right < count else np.float32(np.inf)
        behind = x - points[left, 0] if left >= 0 else np.float32(np.inf)
        i, dx = (right, ahead) if ahead <= behind else (left, behind)
        if not dx * dx < best:
            return found
        if ahead <= behind:
            right += 1
        else:
            left -= 1
        dy = points[i, 1] - y
        distance = dx * dx + dy * dy
        if distance < best:
            best = distance
            found = i


@njit(cache=True, parallel=True, error_model="numpy")
def nearest(samples: Points, points: Points) -> NDArray[np.uint16]:
    """For samples (m, 2), the index (m,) of the nearest of points (n, 2), which ascend in the first coordinate."""
    index = np.empty(samples.shape[0], np.uint16)
    for i in prange(samples.shape[0]):
        index[i] = _nearest_one(samples[i, 0], samples[i, 1], points)
    return index


def _disc(count: int, radius: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of density f^(1/2) from a uniform variable each for radius and angle."""
    r = np.sqrt(-4 * np.log1p(-radius))
    return np.stack([r * np.cos(2 * np.pi * turn), r * np.sin(2 * np.pi * turn)], axis=1)


def in_order(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points (n, 2), ascending in the first coordinate, then in the second."""
    return points[np.lexsort((points[:, 1], points[:, 0]))]


def centroids(
    points: NDArray[np.float64], index: NDArray[np.uint16], moments: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The centroid of every point's cell (n, 2), the point itself where its cell is empty.

    index: (m,) the cell of every sample; moments: (3, m) its weight, and that times either coordinate."""
    mass, x, y = (np.bincount(index, moment, len(points))[:, None] for moment in moments)
    return np.where(mass > 0, np.concatenate([x, y], axis=1) / np.maximum(mass, 1e-300), points)


def gaussian_k_means(count: int, *, steps: int, samples: int) -> NDArray[np.float64]:
    """`count` points (count, 2), ascending in the first coordinate, near the least squared error of a Gaussian."""
    order = np.arange(samples)
    g = 1.32471795724474602596  # the plastic number: powers of its inverse spread two coordinates best
    x = _disc(samples, (0.5 + order / g) % 1, (0.5 + order / g**2) % 1)
    weight = np.exp(-0.25 * (x * x).sum(1))
    golden = (np.sqrt(5) - 1) / 2
    points = in_order(_disc(count, (np.arange(count) + 0.5) / count, np.arange(count) * golden % 1))
    x32 = x.astype(np.float32)
    moments = np.stack([weight, weight * x[:, 0], weight * x[:, 1]])
    for step in range(steps):
        centroid = centroids(points, nearest(x32, points.astype(np.float32)), moments)
        last = step >= steps - 5  # end on plain steps, at centroids
        points = in_order(points + (1.0 if last else OVERSHOOT) * (centroid - points))
    return points
