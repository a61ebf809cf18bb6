r"""E8P: 2^16 points of the shifted lattice E8 + 1/4 in eight dimensions (QuIP#, Tseng et al., 2024, arXiv 2402.04396,
section 4.2), and the nearest of them.

    E8 = D8 u (D8 + 1/2),   E8 + 1/4 = (D8 + 1/2 - 1/4) u (D8 + 1/2 + 1/4)
    point = signs * a + shift,   a one of 256 vectors of odd multiples of 1/2,   shift = -1/4 or 1/4 in all coordinates

D8 + 1/2 holds the vectors of odd multiples of 1/2 with an even sum, so that a and seven signs decide the eighth. a is
any of the 227 with |a|^2 <= 10, or of 29 of the 56 with five 3/2 and three 1/2 (|a|^2 = 12): here the lexicographically
first 29 (QuIP# lists another 29; all choices that were tried give the same distortion to 0.2 %).

    code = index of a  +  2^8 flips of coordinates 0..6  +  2^15 [shift = 1/4]

Search is exact: for y = x - shift the best signs are those of y, and where their parity is wrong the coordinate of
least |y_i| a_i flips: <y, p> loses 2 |y_i| a_i. 512 candidates instead of 65536; about 1600 operations a weight."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray

DIMENSIONS = 8
SHIFT = 0.25
EXTRA = 29


@cache
def absolute_vectors() -> NDArray[np.float32]:
    """The 256 vectors a, (256, 8), ascending in norm, then lexicographically."""
    odd = np.array(list(product((1, 3, 5), repeat=DIMENSIONS)), dtype=np.int64)  # twice the vectors; 7 is too long
    norm = (odd * odd).sum(1)  # four times |a|^2
    inside = odd[norm <= 40]
    inside = inside[np.argsort((inside * inside).sum(1), kind="stable")]
    beyond = odd[(norm == 48) & (odd.max(1) == 3)][:EXTRA]
    return (np.concatenate([inside, beyond]) / 2).astype(np.float32)


def odd_flips(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which vectors need an odd number of flips for an even sum: a flip changes the sum by an odd number."""
    return vectors.sum(1) % 2 == 1


@njit(cache=True, parallel=True, error_model="numpy")
def _nearest(
    x: NDArray[np.float32], columns: NDArray[np.float32], half_norm: NDArray[np.float32], odd: NDArray[np.bool_]
) -> NDArray[np.int32]:
    codes = np.empty(x.shape[0], np.int32)
    count = columns.shape[1]
    for n in prange(x.shape[0]):
        least = np.float32(np.inf)
        magnitude = np.empty(8, np.float32)
        distance = np.empty(count, np.float32)
        for side in range(2):
            negative = 0
            own = np.float32(0.0)
            for i in range(8):
                y = x[n, i] - np.float32(0.25 if side else -0.25)
                negative |= (1 << i) if y < 0 else 0
                magnitude[i] = abs(y)
                own += np.float32(0.5) * y * y
            parity = False
            for i in range(8):
                parity ^= (negative >> i) & 1 == 1
            a, b, c, d = magnitude[0], magnitude[1], magnitude[2], magnitude[3]
            e, f, g, h = magnitude[4], magnitude[5], magnitude[6], magnitude[7]
            for j in range(count):  # candidates, not coordinates, fill the lanes of a register
                p, q, r, s = a * columns[0, j], b * columns[1, j], c * columns[2, j], d * columns[3, j]
                t, u, v, w = e * columns[4, j], f * columns[5, j], g * columns[6, j], h * columns[7, j]
                loss = min(min(min(p, q), min(r, s)), min(min(t, u), min(v, w)))
                wrong = np.float32(2.0) if odd[j] != parity else np.float32(0.0)
                product = ((p + q) + (r + s)) + ((t + u) + (v + w)) - wrong * loss
                distance[j] = own + half_norm[j] - product
            best = np.argmin(distance)
            if distance[best] < least:
                least = distance[best]
                flips = negative
                if odd[best] != parity:
                    flips ^= 1 << int(np.argmin(magnitude * columns[:, best]))
                codes[n] = best | (flips & 127) << 8 | side << 15
    return codes


def nearest_points(x: NDArray[np.float32]) -> NDArray[np.int32]:
    """For vectors (n, 8) the codes (n,) of the nearest points."""
    vectors = absolute_vectors()
    half_norm = (0.5 * (vectors * vectors).sum(1)).astype(np.float32)
    return _nearest(np.ascontiguousarray(x), np.ascontiguousarray(vectors.T), half_norm, odd_flips(vectors))


def points(codes: torch.Tensor) -> torch.Tensor:
    """Codes (n,) integers -> points (n, 8) float32, on their device."""
    codes = codes.to(torch.int64)
    vectors = torch.from_numpy(absolute_vectors()).to(codes.device)
    odd = torch.from_numpy(odd_flips(absolute_vectors())).to(codes.device)
    index = codes & 255
    flips = (codes[:, None] >> torch.arange(8, 15, device=codes.device)) & 1  # (n, 7)
    last = (flips.sum(1) + odd[index].to(torch.int64)) & 1
    signs = 1 - 2 * torch.cat([flips, last[:, None]], dim=1)
    shift = SHIFT * (2 * (codes >> 15) - 1)
    return vectors[index] * signs + shift[:, None]
