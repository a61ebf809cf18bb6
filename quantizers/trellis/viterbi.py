r"""The closest tail-biting path of a bitshift trellis (Viterbi, 1967, doi:10.1109/TIT.1967.1054010), 16 at a time.

A state has L bits, a step shifts in k new ones at the top: s' = (s >> k) | (n << (L - k)). With o = s >> k the overlap
that a state hands on, the smallest squared error of a path that ends in overlap o after step t is

    best[t+1][o] = min over j < 2^k of  best[t][s mod 2^(L-k)] + |x_t - c(s)|^2,    s = (o << k) | j.

Only `best` is kept (2^(L-k) values a step); the path is traced back by repeating the minimum along it. A tile's path
must end in the overlap that it starts with. As usual (e.g. Shao et al., 2003, doi:10.1109/TCOMM.2003.814209) the
overlap at the seam is chosen first, by a free pass over the steps around it, and then held in one pass over all steps.
Cost: 2^L additions a step, in float32; tiles are independent and nothing depends on the number of threads."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from quantizers.trellis.lanes import LANES, add, load, minimum, multiply_add, spread, store

Floats = NDArray[np.float32]
States = NDArray[np.uint16]
Integers = NDArray[np.int64]

UNREACHABLE = np.float32(1e30)


@njit(cache=True, inline="always")
def _metric(table: Floats, s: int, x0: Floats, x1: Floats) -> Floats:
    """|c(s)|^2 - 2 x . c(s) in every lane, of lanes x0, x1 = -2 x."""
    base = 3 * s
    part = multiply_add(x0, spread(table[base + 1]), spread(table[base]))
    return multiply_add(x1, spread(table[base + 2]), part)


@njit(cache=True, error_model="numpy")
def _forward(table: Floats, source: Floats, first: int, steps: int, state_bits: int, k: int, best: Floats) -> None:
    """Fill best[1 : steps + 1] from best[0], over the steps first, first + 1, ... modulo all of them.

    table: (2^L, 3), |c|^2, c0, c1; source: (steps of a tile, 3, 16), -2 x0, -2 x1, |x|^2; best: (.., 2^(L-k), 16)."""
    entries = table.reshape(-1)
    lanes = source.reshape(-1)
    costs = best.reshape(-1)
    overlaps = 1 << (state_bits - k)
    shared = min(k, state_bits - k)  # an overlap has 2^shared predecessors, each by 2^(k - shared) states
    repeats = 1 << (k - shared)
    blocks = 1 << (state_bits - k - shared)
    for t in range(steps):
        at = ((first + t) % source.shape[0]) * 3 * LANES
        x0 = load(lanes, at)
        x1 = load(lanes, at + LANES)
        energy = load(lanes, at + 2 * LANES)
        old = t * overlaps * LANES
        new = old + overlaps * LANES
        for o in range(overlaps):
            smallest = spread(UNREACHABLE)
            base = (o & (blocks - 1)) << shared
            for j in range(1 << shared):
                s = (o << k) | j
                near = _metric(entries, s, x0, x1)
                for q in range(1, repeats):
                    near = minimum(_metric(entries, s | (q << shared), x0, x1), near)
                smallest = minimum(add(load(costs, old + (base + j) * LANES), near), smallest)
            store(costs, new + o * LANES, add(smallest, energy))


@njit(cache=True, error_model="numpy")
def _last_state(
    columns: Floats, best: Floats, lane: int, o: int, x0: float, x1: float, k: int, sums: Floats, start: Floats
) -> int:
    """The state s = (o << k) | j whose path is the best one to overlap o, found 16 states at a time.

    columns: (3, 2^L + 16) of |c|^2, c0, c1; best: (2^(L-k), 16); x0, x1: -2 x; sums, start: room for 2^k + 16."""
    states = 1 << k
    shared = min(states, best.shape[0])
    low = o << k
    first = low & (best.shape[0] - 1)
    width = max(shared, LANES)  # the predecessors repeat after this many states
    for j in range(width):
        start[j] = best[first + (j & (shared - 1)), lane] if j < states else UNREACHABLE
    each0, each1 = spread(x0), spread(x1)
    row = columns.shape[1]
    nearest = spread(UNREACHABLE)
    for j in range(0, states, LANES):
        s = low + j
        part = multiply_add(each0, load(columns, row + s), load(columns, s))
        part = multiply_add(each1, load(columns, 2 * row + s), part)
        total = add(part, load(start, j & (width - 1)))
        nearest = minimum(total, nearest)
        store(sums, j, total)
    store(start, 0, nearest)
    column = 0
    for j in range(1, LANES):
        if start[j] < start[column]:
            column = j
    found = column
    while sums[found] != start[column]:
        found += LANES
    return low + found


@njit(cache=True, error_model="numpy")
def _seam(
    table: Floats, columns: Floats, source: Floats, window: int, state_bits: int, k: int, best: Floats, room: Floats
) -> Integers:
    """The overlap of every lane before step 0, from a free pass over `window` steps on either side of it."""
    period = source.shape[0]
    best[0] = np.float32(0)
    _forward(table, source, period - window, 2 * window, state_bits, k, best)
    seam = np.zeros(LANES, np.int64)
    for lane in range(LANES):
        o = np.argmin(best[2 * window, :, lane])
        for t in range(window - 1, -1, -1):
            x = source[t, :, lane]
            s = _last_state(columns, best[window + t], lane, o, x[0], x[1], k, room[0], room[1])
            o = s & (best.shape[1] - 1)
        seam[lane] = o
    return seam


@njit(cache=True, error_model="numpy")
def _lanes(points: Floats, first: int, source: Floats) -> None:
    """Sixteen tiles of points (tiles, steps, 2) as the lanes of source; a missing tile is zero."""
    for lane in range(LANES):
        inside = first + lane < points.shape[0]
        for t in range(source.shape[0]):
            x0 = points[first + lane, t, 0] if inside else np.float32(0)
            x1 = points[first + lane, t, 1] if inside else np.float32(0)
            source[t, 0, lane] = np.float32(-2) * x0
            source[t, 1, lane] = np.float32(-2) * x1
            source[t, 2, lane] = x0 * x0 + x1 * x1


@njit(cache=True, parallel=True, error_model="numpy")
def _search(
    points: Floats, table: Floats, columns: Floats, state_bits: int, k: int, window: int, workers: int
) -> States:
    tiles, period, _ = points.shape
    states = np.empty((tiles, period), np.uint16)
    groups = (tiles + LANES - 1) // LANES
    for worker in prange(workers):
        source = np.empty((period, 3, LANES), np.float32)
        best = np.empty((max(period, 2 * window) + 1, 1 << (state_bits - k), LANES), np.float32)
        room = np.empty((2, (1 << k) + LANES), np.float32)
        for group in range(worker, groups, workers):
            first = group * LANES
            _lanes(points, first, source)
            seam = _seam(table, columns, source, window, state_bits, k, best, room)
            best[0] = UNREACHABLE
            for lane in range(LANES):
                best[0, seam[lane], lane] = np.float32(0)
            _forward(table, source, 0, period, state_bits, k, best)
            for lane in range(min(LANES, tiles - first)):
                o = seam[lane]
                for t in range(period - 1, -1, -1):
                    x = source[t, :, lane]
                    s = _last_state(columns, best[t], lane, o, x[0], x[1], k, room[0], room[1])
                    states[first + lane, t] = s
                    o = s & (best.shape[1] - 1)
    return states


def closest_paths(points: Floats, table: Floats, k: int, *, window: int) -> States:
    """The states (tiles, steps) uint16 of near-closest tail-biting paths.

    points: (tiles, steps, 2) float32; table: (2^L, 2) float32, the value of each state; k: new bits a step; window:
    steps on either side of the seam that choose its overlap, at most half of all."""
    tiles, period, _ = points.shape
    state_bits = int(table.shape[0]).bit_length() - 1
    assert 0 < k <= state_bits <= 16
    assert 0 < 2 * window <= period
    columns = np.zeros((3, table.shape[0] + LANES), np.float32)  # 16 states are read from any first one
    columns[:, : table.shape[0]] = (table * table).sum(1), table[:, 0], table[:, 1]
    groups = max(1, -(-tiles // LANES))
    workers = min(groups, get_num_threads())
    rows = np.ascontiguousarray(columns[:, : table.shape[0]].T)
    return _search(np.ascontiguousarray(points), rows, columns, state_bits, k, window, workers)
