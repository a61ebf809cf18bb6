r"""The closest tail-biting path of a trellis with one weight a step and mixed shifts, exactly, 16 tiles at a time.

With k new bits at this step and k' at the next, the least cost of a path whose next step starts from overlap o' is

    A'[o'] = min over j < 2^k' of  A[s mod 2^(L-k)] + (x - value(s))^2,      s = (o' << k') | j

(bitshift trellis as in quantizers.trellis.viterbi). Values and points are integers and costs are exact, in int32, in
multiples of 2^tag: the minimum carries j in the low bits, so that ties go to the smallest j (at the seam, to the
smallest overlap), as in cuda/encode_trellis.cu, whose codes are the same to the bit. They stay below 2^31: ceil(L/k)
steps lead from anywhere to anywhere, so they differ by at most as many x 1212^2, and every fourth step that of overlap
0 is taken off all of them; 2^30 marks what cannot be reached, in the first ceil(L/k) steps.
Costs are two rows of 2^(L-k) x 16, which the caches hold; what goes to memory is the byte j of each.
The overlap at the seam is chosen by a free pass over `window` steps on either side and then held in one full pass.
Cost: 2^L x (subtract, multiply, add, minimum) a step and tile; four overlaps share every cost that is loaded."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from quantizers.trellis.lanes import (
    LANES,
    add_square,
    both,
    either,
    load,
    minimum,
    spread,
    spread_at,
    store,
    store_bytes,
    subtract,
)

Costs = NDArray[np.int32]
Integers = NDArray[np.int64]
Points = NDArray[np.int16]
Symbols = NDArray[np.uint8]

STEPS = 256
UNREACHABLE = np.int32(1 << 30)
MOST_BYTES = 16 << 30  # of all workers' back-pointers: 120 workers at 17 state bits and 2.75 bits a weight


@njit(cache=True, error_model="numpy")
def _step(
    values: Costs, x: Costs, at: int, costs: Costs, old: int, new: int, pointers: Symbols, row: int,
    L: int, k: int, n: int, tag: int, lower: bool,
) -> None:  # fmt: skip
    """Costs at `new` (2^(L-n) overlaps of 16 lanes) from those at `old` (2^(L-k)), and the j of each at `row`.

    lower: whether the cost of the first overlap is taken off all."""
    point = load(x, at)
    offset = load(costs, old) if lower else spread(np.int32(0))
    far = spread(np.int32(0x7FFFFFFF))
    marks = spread(np.int32((1 << tag) - 1))
    rest = spread(np.int32(-1 << tag))
    mask = (1 << (L - k)) - 1
    overlaps = 1 << (L - n)
    highs = min(4, 1 << k) if k + n <= L else 1  # overlaps `lows` apart have the same predecessors
    lows = (1 << (L - k - n)) if k + n <= L else overlaps
    for low in range(lows):
        for first in range(low, overlaps, lows * highs):
            if highs == 4:
                o1, o2, o3 = first + lows, first + 2 * lows, first + 3 * lows
                a = b = c = d = far
                base = old + (low << n) * LANES
                for j in range(1 << n):
                    cost = either(subtract(load(costs, base + j * LANES), offset), spread(np.int32(j)))
                    a = minimum(add_square(cost, subtract(point, spread_at(values, (first << n) + j))), a)
                    b = minimum(add_square(cost, subtract(point, spread_at(values, (o1 << n) + j))), b)
                    c = minimum(add_square(cost, subtract(point, spread_at(values, (o2 << n) + j))), c)
                    d = minimum(add_square(cost, subtract(point, spread_at(values, (o3 << n) + j))), d)
                store(costs, new + first * LANES, both(a, rest))
                store(costs, new + o1 * LANES, both(b, rest))
                store(costs, new + o2 * LANES, both(c, rest))
                store(costs, new + o3 * LANES, both(d, rest))
                store_bytes(pointers, row + first * LANES, both(a, marks))
                store_bytes(pointers, row + o1 * LANES, both(b, marks))
                store_bytes(pointers, row + o2 * LANES, both(c, marks))
                store_bytes(pointers, row + o3 * LANES, both(d, marks))
            else:
                for o in range(first, min(first + highs * lows, overlaps), lows):
                    a = far
                    for j in range(1 << n):
                        s = (o << n) + j
                        cost = either(subtract(load(costs, old + (s & mask) * LANES), offset), spread(np.int32(j)))
                        a = minimum(add_square(cost, subtract(point, spread_at(values, s))), a)
                    store(costs, new + o * LANES, both(a, rest))
                    store_bytes(pointers, row + o * LANES, both(a, marks))


@njit(cache=True, error_model="numpy")
def _forward(
    values: Costs, source: Costs, first: int, steps: int, kept: int, L: int, shifts: Integers, tag: int,
    costs: Costs, pointers: Symbols,
) -> None:  # fmt: skip
    """From the costs at row 0 those after the steps first, first + 1, ... modulo 256, an even number of them.

    costs: (2, 2^(L-k), 16), the result is at row 0 again; pointers: (kept, 2^(L-k) x 16), of the last `kept` steps."""
    lanes = source.reshape(-1)
    rows = costs.reshape(-1)
    trace = pointers.reshape(-1)
    size = pointers.shape[1]
    settled = -(-L // shifts.min())
    for i in range(steps):
        t = (first + i) % STEPS
        k, n = shifts[t % 4], shifts[(t + 1) % 4]
        row = max(0, i - (steps - kept)) * size
        old, new = (i & 1) * size, (1 - (i & 1)) * size
        _step(values, lanes, t * LANES, rows, old, new, trace, row, L, k, n, tag, i % 4 == 0 and i >= settled)


@njit(cache=True, error_model="numpy")
def _state_before(pointers: Symbols, i: int, lane: int, o: int, n: int) -> int:
    """The state whose path is the best one to overlap o after the step of row i; n: new bits of the next step."""
    return (o << n) | pointers[i, o * LANES + lane]


@njit(cache=True, parallel=True, error_model="numpy")
def _search(points: Points, values: Costs, L: int, shifts: Integers, tag: int, window: int, workers: int) -> Symbols:
    tiles = points.shape[0]
    symbols = np.empty((tiles, STEPS), np.uint8)
    groups = (tiles + LANES - 1) // LANES
    for worker in prange(workers):
        source = np.zeros((STEPS, LANES), np.int32)
        costs = np.empty((2, 1 << (L - shifts.min()), LANES), np.int32)
        pointers = np.empty((STEPS, LANES << (L - shifts.min())), np.uint8)
        seam = np.zeros(LANES, np.int64)
        for group in range(worker, groups, workers):
            first = group * LANES
            count = min(LANES, tiles - first)
            for lane in range(count):
                for t in range(STEPS):
                    source[t, lane] = points[first + lane, t] << (tag // 2)
            costs[0] = 0
            _forward(values, source, STEPS - window, 2 * window, window, L, shifts, tag, costs, pointers)
            for lane in range(count):
                o = int(np.argmin(costs[0, : 1 << (L - shifts[0]), lane]))
                for t in range(window - 1, -1, -1):
                    s = _state_before(pointers, t, lane, o, shifts[(t + 1) % 4])
                    o = s & ((1 << (L - shifts[t % 4])) - 1)
                seam[lane] = o
            costs[0] = UNREACHABLE
            for lane in range(count):
                costs[0, seam[lane], lane] = 0
            _forward(values, source, 0, STEPS, STEPS, L, shifts, tag, costs, pointers)
            for lane in range(count):
                o = seam[lane]
                for t in range(STEPS - 1, -1, -1):
                    s = _state_before(pointers, t, lane, o, shifts[(t + 1) % 4])
                    symbols[first + lane, t] = s >> (L - shifts[t % 4])
                    o = s & ((1 << (L - shifts[t % 4])) - 1)
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
    held = STEPS * LANES << (state_bits - min(shifts))  # bytes of a worker's back-pointers
    workers = min(max(1, -(-len(points) // LANES)), get_num_threads(), max(1, MOST_BYTES // held))
    tag = 4 if max(shifts) <= 4 else 6  # even, so that a point and a value take half of it each
    scaled = values.astype(np.int32) << (tag // 2)
    return _search(np.ascontiguousarray(points), scaled, state_bits, np.array(shifts, np.int64), tag, window, workers)
