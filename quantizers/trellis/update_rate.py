r"""How many state updates a second the cores can do when nothing but registers is touched: the floor of the encoders.

An update is what a search does for each state of a step, here in the same operations on the same sixteen lanes:

    trellis:          least = min(cost + (x - value)^2, least)           subtract, multiply, add, minimum
    tcq, half-tcq:    least = min(cost + (c0 x0 + (c1 x1 + c2)), least)  two fused multiply-adds, add, minimum

Eight minima are independent, so that no operation waits for the one before it."""

from __future__ import annotations

import time

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from quantizers.trellis.lanes import LANES, add, add_square, load, minimum, multiply_add, spread, store, subtract

OPERATIONS = 4  # of an update, in both families
CHAINS = 8


@njit(cache=True, parallel=True, error_model="numpy")
def _integer(points: NDArray[np.int32], found: NDArray[np.int32], rounds: int, workers: int) -> None:
    """points: (8 x 16,); found: (workers x 8 x 16,), so that no work is left out."""
    for worker in prange(workers):
        at = worker * CHAINS * LANES
        a = b = c = d = e = f = g = h = spread(np.int32(0x7FFFFFFF))
        p, q, r, s = load(points, 0), load(points, 16), load(points, 32), load(points, 48)
        t, u, v, w = load(points, 64), load(points, 80), load(points, 96), load(points, 112)
        value, cost = spread(np.int32(0)), spread(np.int32(7))
        for _ in range(rounds):
            value = subtract(value, cost)
            a = minimum(add_square(cost, subtract(p, value)), a)
            b = minimum(add_square(cost, subtract(q, value)), b)
            c = minimum(add_square(cost, subtract(r, value)), c)
            d = minimum(add_square(cost, subtract(s, value)), d)
            e = minimum(add_square(cost, subtract(t, value)), e)
            f = minimum(add_square(cost, subtract(u, value)), f)
            g = minimum(add_square(cost, subtract(v, value)), g)
            h = minimum(add_square(cost, subtract(w, value)), h)
        store(found, at, minimum(minimum(a, b), minimum(c, d)))
        store(found, at + LANES, minimum(minimum(e, f), minimum(g, h)))


@njit(cache=True, parallel=True, error_model="numpy")
def _floating(points: NDArray[np.float32], found: NDArray[np.float32], rounds: int, workers: int) -> None:
    """As `_integer`."""
    for worker in prange(workers):
        at = worker * CHAINS * LANES
        a = b = c = d = e = f = g = h = spread(np.float32(1e30))
        p, q, r, s = load(points, 0), load(points, 16), load(points, 32), load(points, 48)
        t, u, v, w = load(points, 64), load(points, 80), load(points, 96), load(points, 112)
        value, cost = spread(np.float32(0)), spread(np.float32(0.25))
        for _ in range(rounds):
            value = add(value, cost)
            a = minimum(add(cost, multiply_add(p, value, multiply_add(q, value, value))), a)
            b = minimum(add(cost, multiply_add(q, value, multiply_add(r, value, value))), b)
            c = minimum(add(cost, multiply_add(r, value, multiply_add(s, value, value))), c)
            d = minimum(add(cost, multiply_add(s, value, multiply_add(t, value, value))), d)
            e = minimum(add(cost, multiply_add(t, value, multiply_add(u, value, value))), e)
            f = minimum(add(cost, multiply_add(u, value, multiply_add(v, value, value))), f)
            g = minimum(add(cost, multiply_add(v, value, multiply_add(w, value, value))), g)
            h = minimum(add(cost, multiply_add(w, value, multiply_add(p, value, value))), h)
        store(found, at, minimum(minimum(a, b), minimum(c, d)))
        store(found, at + LANES, minimum(minimum(e, f), minimum(g, h)))


def updates_per_second(*, integer: bool, rounds: int = 16_000_000, repeats: int = 8) -> float:
    """State updates a second of all threads, each with a core of its own: by the processor time they take, the least of
    the repeats (what else runs on the machine lengthens the wall time, hardly this one). A repeat is to last a tenth of
    a second: the processor time of other threads is brought up to date at clock ticks only."""
    workers = get_num_threads()
    kind = np.int32 if integer else np.float32
    points = np.arange(CHAINS * LANES).astype(kind)
    found = np.empty(workers * CHAINS * LANES, kind)
    work = _integer if integer else _floating
    work(points, found, 1, workers)
    least = np.inf
    for _ in range(repeats):
        start = time.process_time()
        work(points, found, rounds, workers)
        least = min(least, time.process_time() - start)
    return workers * workers * rounds * CHAINS * LANES / least
