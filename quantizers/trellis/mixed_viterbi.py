r"""The closest tail-biting path of a trellis with one weight a step and mixed shifts, exactly, 16 tiles at a time.

With k new bits at this step and k' at the next, the least cost of a path whose next step starts from overlap o' is

    A'[o'] = min over j < 2^k' of  A[s mod 2^(L-k)] + (x - value(s))^2,      s = (o' << k') | j

(bitshift trellis as in quantizers.trellis.viterbi). Values and points are integers, so every cost below 2^24 is exact
in float32, in any order of operations; a costlier path is never the best one (256 x 192^2 bounds a tile's best).
Ties go to the smallest j and the smallest overlap, as in cuda/encode_trellis.cu, whose codes are the same to the bit.
The overlap at the seam is chosen by a free pass over `window` steps on either side and then held in one full pass.
Cost: 2^L x (add, fused multiply-add, minimum) a step and tile; four overlaps share every cost that is loaded."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from quantizers.trellis.lanes import LANES, add, load, minimum, multiply_add, spread, store

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Points = NDArray[np.int16]
Symbols = NDArray[np.uint8]

STEPS = 256
UNREACHABLE = np.float32(1 << 30)
MOST_BYTES = 16 << 30  # of all workers' costs: 30 workers at 17 state bits and 2.75 bits a weight


@njit(cache=True, error_model="numpy")
def _step(negated: Floats, lanes: Floats, at: int, costs: Floats, old: int, new: int, L: int, k: int, n: int) -> None:
    """Costs at `new` (2^(L-n) overlaps of 16 lanes) from those at `old` (2^(L-k)) and the points of one step."""
    x = load(lanes, at)
    mask = (1 << (L - k)) - 1
    overlaps = 1 << (L - n)
    apart = max(1, overlaps >> min(2, k))  # overlaps so far apart have the same predecessors
    for low in range(apart):
        for first in range(low, overlaps, 4 * apart):
            o1, o2, o3 = first + apart, first + 2 * apart, first + 3 * apart
            if o3 < overlaps and k >= 2 and n <= L - k:
                a = spread(UNREACHABLE)
                b = spread(UNREACHABLE)
                c = spread(UNREACHABLE)
                d = spread(UNREACHABLE)
                base = old + ((first << n) & mask) * LANES
                for j in range(1 << n):
                    cost = load(costs, base + j * LANES)
                    t = add(x, spread(negated[(first << n) + j]))
                    a = minimum(multiply_add(t, t, cost), a)
                    t = add(x, spread(negated[(o1 << n) + j]))
                    b = minimum(multiply_add(t, t, cost), b)
                    t = add(x, spread(negated[(o2 << n) + j]))
                    c = minimum(multiply_add(t, t, cost), c)
                    t = add(x, spread(negated[(o3 << n) + j]))
                    d = minimum(multiply_add(t, t, cost), d)
                store(costs, new + first * LANES, a)
                store(costs, new + o1 * LANES, b)
                store(costs, new + o2 * LANES, c)
                store(costs, new + o3 * LANES, d)
            else:
                for o in range(first, min(first + 4 * apart, overlaps), apart):
                    a = spread(UNREACHABLE)
                    for j in range(1 << n):
                        s = (o << n) + j
                        t = add(x, spread(negated[s]))
                        a = minimum(multiply_add(t, t, load(costs, old + (s & mask) * LANES)), a)
                    store(costs, new + o * LANES, a)


@njit(cache=True, error_model="numpy")
def _forward(negated: Floats, source: Floats, first: int, steps: int, L: int, shifts: Integers, best: Floats) -> None:
    """Fill best[1 : steps + 1] from best[0], over the steps first, first + 1, ... modulo 256."""
    lanes = source.reshape(-1)
    costs = best.reshape(-1)
    row = best.shape[1] * LANES
    for i in range(steps):
        t = (first + i) % STEPS
        _step(negated, lanes, t * LANES, costs, i * row, (i + 1) * row, L, shifts[t % 4], shifts[(t + 1) % 4])


@njit(cache=True, error_model="numpy")
def _last_state(negated: Floats, costs: Floats, lane: int, x: float, o: int, L: int, k: int, n: int) -> int:
    """The state whose path is the best one to overlap o; costs: (.., 16) before the step. The smallest of equals."""
    mask = (1 << (L - k)) - 1
    found, least = 0, np.float32(np.inf)
    for s in range(o << n, (o + 1) << n):
        t = x + negated[s]
        total = costs[s & mask, lane] + t * t
        if total < least:
            found, least = s, total
    return found


@njit(cache=True, error_model="numpy")
def _seam(negated: Floats, source: Floats, lane: int, window: int, L: int, shifts: Integers, best: Floats) -> int:
    """The overlap before step 0 on the cheapest of all paths of a free pass, which `best` holds."""
    ends = best[2 * window, : 1 << (L - shifts[0]), lane]
    o = np.argmin(ends)
    for t in range(window - 1, -1, -1):
        k = shifts[t % 4]
        s = _last_state(negated, best[window + t], lane, source[t, lane], o, L, k, shifts[(t + 1) % 4])
        o = s & ((1 << (L - k)) - 1)
    return int(o)


@njit(cache=True, parallel=True, error_model="numpy")
def _search(points: Points, negated: Floats, L: int, shifts: Integers, window: int, workers: int) -> Symbols:
    tiles = points.shape[0]
    symbols = np.empty((tiles, STEPS), np.uint8)
    groups = (tiles + LANES - 1) // LANES
    for worker in prange(workers):
        source = np.zeros((STEPS, LANES), np.float32)
        best = np.empty((max(STEPS, 2 * window) + 1, 1 << (L - shifts.min()), LANES), np.float32)
        seam = np.zeros(LANES, np.int64)
        for group in range(worker, groups, workers):
            first = group * LANES
            count = min(LANES, tiles - first)
            for lane in range(count):
                for t in range(STEPS):
                    source[t, lane] = points[first + lane, t]
            best[0] = np.float32(0)
            _forward(negated, source, STEPS - window, 2 * window, L, shifts, best)
            for lane in range(count):
                seam[lane] = _seam(negated, source, lane, window, L, shifts, best)
            best[0] = UNREACHABLE
            for lane in range(count):
                best[0, seam[lane], lane] = np.float32(0)
            _forward(negated, source, 0, STEPS, L, shifts, best)
            for lane in range(count):
                o = seam[lane]
                for t in range(STEPS - 1, -1, -1):
                    k = shifts[t % 4]
                    s = _last_state(negated, best[t], lane, source[t, lane], o, L, k, shifts[(t + 1) % 4])
                    symbols[first + lane, t] = s >> (L - k)
                    o = s & ((1 << (L - k)) - 1)
    return symbols


def closest_symbols(points: Points, values: NDArray[np.int16], shifts: tuple[int, ...], *, window: int) -> Symbols:
    """The new bits of every step, (tiles, 256) uint8, of near-closest tail-biting paths.

    points: (tiles, 256) int16 of size at most 700; values: (2^L,) int16, of every state; shifts: (4,) new bits of the
    steps modulo 4; window: steps on either side of the seam in the free pass, a multiple of 4, at most 256."""
    state_bits = int(values.shape[0]).bit_length() - 1
    assert values.shape[0] == 1 << state_bits
    assert max(shifts) <= state_bits <= 18
    assert window % 4 == 0
    assert 0 < window <= STEPS
    held = 4 * LANES * (max(STEPS, 2 * window) + 1) << (state_bits - min(shifts))  # bytes of a worker's costs
    workers = min(max(1, -(-len(points) // LANES)), get_num_threads(), max(1, MOST_BYTES // held))
    negated = -values.astype(np.float32)
    return _search(np.ascontiguousarray(points), negated, state_bits, np.array(shifts, np.int64), window, workers)
