r"""Two-dimensional k-means of random Gaussian samples from a random start, which ends before it is done.

    p_i <- mean of the samples nearest to p_i,      while the mean distance |x - p(x)| falls by more than `threshold`

(Lloyd, 1982, doi:10.1109/TIT.1982.1056489; the rule to end is that of scipy.cluster.vq.kmeans, with which the published
tables of trellis codes were made.) The start has the density f of the source, the optimum f^(1/2), at sqrt(2) of its
spread (`quantizers.k_means`), and steps become small long before: 2^9 points end at 1.2 of it. Brought to one standard
deviation these points reach further out, in the middle they are closer: better for a trellis code from 2.5 bits on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantizers.k_means import centroids, in_order, nearest


def sampled_k_means(count: int, *, samples: int, threshold: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """`count` points (count, 2), ascending in the first coordinate, for so many standard Gaussian samples."""
    points = in_order(rng.standard_normal((count, 2)))
    x = rng.standard_normal((samples, 2)).astype(np.float32)
    moments = np.stack([np.ones(samples), x[:, 0], x[:, 1]])
    before = np.inf
    while True:
        found = points.astype(np.float32)
        index = nearest(x, found)
        distance = float(np.linalg.norm(x - found[index], axis=1).mean(dtype=np.float64))
        if before - distance <= threshold:
            return points
        points = in_order(centroids(points, index, moments))
        before = distance
