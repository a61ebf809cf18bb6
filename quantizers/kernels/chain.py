"""How a product is timed: a chain of at least 64 on one stream, captured as a graph, each reading the output of the one
before (of trellis2: waiting for it; its bytes are made once), over weights that cycle through half a gigabyte; times of
several replays over the length. Beside it, in the same run, a plain read of a gigabyte. For tables of a model: the same
where each product follows a rotation."""

from __future__ import annotations

import ctypes
import platform
import statistics
import subprocess
from collections.abc import Callable
from typing import Any

import torch

from quantizers.kernels.build import check, compiler, load
from quantizers.kernels.gemv import processors
from quantizers.kernels.place import Place
from quantizers.kernels.products import Way, spacing

POOL_BYTES = 1 << 30
CYCLED_BYTES = 1 << 29
LEAST, MOST = 64, 256  # products of a chain
REPLAYS = 9


def random_pool(device: torch.device) -> torch.Tensor:
    """(POOL_BYTES,) uint8."""
    return torch.randint(0, 256, (POOL_BYTES,), dtype=torch.uint8, device=device)


def microseconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Device time of each repeat."""
    times = []
    for _ in range(repeats):
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        work()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) * 1e3)
    return times


def read_limit(pool: torch.Tensor) -> float:
    """GB/s of a plain read of the pool."""
    library = load("read_limit", pool.device)
    never = torch.zeros(1, dtype=torch.int32, device=pool.device)
    count = processors(pool.device.index or 0)

    def read() -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        size = ctypes.c_int64(pool.numel())
        status = library.read_limit(
            ctypes.c_void_p(pool.data_ptr()), size, ctypes.c_void_p(never.data_ptr()), count, stream
        )
        check(status, "read_limit")

    read()
    return pool.numel() / statistics.median(microseconds(read, 15)) / 1e3


def graphed(work: Callable[[], object]) -> Callable[[], None]:
    """The work as a graph, warm."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()

    for _ in range(5):
        graph.replay()
    return graph.replay  # on the stream of the caller, where its events are


def copies_of(way: Way, shape: tuple[int, int], pool_bytes: int = POOL_BYTES) -> int:
    """Weights that a chain cycles through."""
    step = spacing(way.weight_bytes(*shape))
    return max(1, min(-(-CYCLED_BYTES // step), pool_bytes // step))


def chain_microseconds(way: Way, pool: torch.Tensor, shape: tuple[int, int], batch: int) -> list[float]:
    """Of one product of a chain, in each of several replays. shape: (out, in)."""
    rows, columns = shape
    products = way.prepared(pool, rows, columns, copies_of(way, shape, pool.numel()))
    length = max(LEAST, min(len(products), MOST))
    buffers = [torch.randn(batch * max(shape), device=pool.device).to(way.dtype) for _ in range(2)]

    def chain() -> None:
        for i in range(length):
            x = buffers[i % 2][: batch * columns].view(batch, columns)
            y = buffers[1 - i % 2][: batch * rows].view(batch, rows)
            products[i % len(products)](x, y)

    replay = graphed(chain)
    return [time / length for time in microseconds(replay, REPLAYS)]


def model_microseconds(way: Way, pool: torch.Tensor, shape: tuple[int, int], batch: int) -> list[float]:
    """Of one product where it stands in a model, between rotations: of pairs of a rotation and a product less that of
    rotations alone, in each of several replays, in turns; as `chain_microseconds` where there is no rotation."""
    rows, columns = shape
    if (turn := way.turned(columns)) is None:
        return chain_microseconds(way, pool, shape, batch)
    products = way.prepared(pool, rows, columns, copies_of(way, shape, pool.numel()), place=Place.BETWEEN_ROTATIONS)
    length = max(LEAST, min(len(products), MOST))
    x = torch.randn(batch, columns, device=pool.device).to(way.dtype)
    y = torch.empty(batch, rows, dtype=way.dtype, device=pool.device)

    def turns() -> None:
        for _ in range(length):
            turn(x)

    def pairs() -> None:
        for i in range(length):
            products[i % len(products)](turn(x), y)

    of_turns, of_pairs = graphed(turns), graphed(pairs)
    each = [(microseconds(of_pairs, 1)[0], microseconds(of_turns, 1)[0]) for _ in range(REPLAYS)]
    return [(both - rotations) / length for both, rotations in each]


def environment(device: torch.device) -> dict[str, Any]:
    """Device, clocks, driver and versions."""
    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem"
    asked = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device.index or 0}"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    nvcc = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False).stdout.split("\n")
    return {"gpu": dict(zip(query.split(","), answer.split(", "), strict=False)), "torch": torch.__version__,
            "nvcc": nvcc[-2] if len(nvcc) > 1 else "", "python": platform.python_version()}  # fmt: skip
