r"""Times of the products against the memory limit of the same run: microseconds, GB/s of codes, share of a plain read.

A chain of at least 64 products on one stream, captured as a graph, each reading the output of the one before, over
weights that cycle through half a gigabyte of random codes; the median of several replays, over the length. Runs where
torch and nvcc are: `python -m quantizers.kernels.bench --out FILE`; `python -m experiments.bench_kernels` wraps it."""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from quantizers.kernels.build import architecture, build, check, compiler, load
from quantizers.kernels.gemv import MOST_BATCH, multiply, processors

log = logging.getLogger(__name__)
READ_BYTES = 1 << 30
CYCLED_BYTES = 1 << 29
# (out_features, in_features) by name
LAYERS: dict[str, dict[str, tuple[int, int]]] = {
    "llama-3.1-8b": {
        "q or o": (4096, 4096),
        "k or v": (1024, 4096),
        "qkv": (6144, 4096),
        "gate or up": (14336, 4096),
        "gate+up": (28672, 4096),
        "down": (4096, 14336),
    },
    "llama-3.1-70b": {"q or o": (8192, 8192), "qkv": (10240, 8192), "gate+up": (57344, 8192), "down": (8192, 28672)},
    "qwen3-8b": {"q or o": (4096, 4096), "qkv": (6144, 4096), "gate+up": (24576, 4096), "down": (4096, 12288)},
    "smollm2-135m": {"q or o": (576, 576), "qkv": (960, 576), "gate+up": (3072, 576), "down": (576, 1536)},
}


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


def read_limit(codes: torch.Tensor) -> float:
    """GB/s of a plain read of `codes` (READ_BYTES,) uint8."""
    library = load("read_limit", codes.device)
    never = torch.zeros(1, dtype=torch.int32, device=codes.device)
    count = processors(codes.device.index or 0)

    def read() -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        size = ctypes.c_int64(codes.numel())
        status = library.read_limit(
            ctypes.c_void_p(codes.data_ptr()), size, ctypes.c_void_p(never.data_ptr()), count, stream
        )
        check(status, "read_limit")

    read()
    return codes.numel() / statistics.median(microseconds(read, 15)) / 1e3


def chain_microseconds(codes: torch.Tensor, shape: tuple[int, int], quarters: int, batch: int) -> list[float]:
    """Of one product of a chain, in each of several replays. codes: random bytes."""
    rows, columns = shape
    size = rows * columns * quarters // 32
    copies = max(1, min(-(-CYCLED_BYTES // size), codes.numel() // size))
    length = max(64, min(copies, 256))
    scale = torch.full((rows,), columns**-0.5, dtype=torch.float16, device=codes.device)
    buffers = [torch.randn(batch * max(shape), device=codes.device).half() for _ in range(2)]

    def chain() -> None:
        for i in range(length):
            weight = codes[i % copies * size :][:size]
            x = buffers[i % 2][: batch * columns].view(batch, columns)
            y = buffers[1 - i % 2][: batch * rows].view(batch, rows)
            multiply(weight, scale, x, y, quarters)

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        chain()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            chain()
        for _ in range(5):
            graph.replay()
        return [time / length for time in microseconds(graph.replay, 9)]


def environment(device: torch.device) -> dict[str, Any]:
    """Device, clocks, driver and versions."""
    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem"
    asked = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device.index or 0}"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    nvcc = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False).stdout.split("\n")
    return {"gpu": dict(zip(query.split(","), answer.split(", "), strict=False)), "torch": torch.__version__,
            "nvcc": nvcc[-2] if len(nvcc) > 1 else "", "python": platform.python_version()}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every shape, rate and batch asked for; write JSON."""
    parser = argparse.ArgumentParser(description="time the matrix products of packed codes against the read limit")
    parser.add_argument("--models", nargs="*", default=["llama-3.1-8b"], choices=sorted(LAYERS))
    parser.add_argument("--quarters", type=int, nargs="*", default=[8, 12, 13, 16], help="4 x rate, 5 .. 24")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8], help=f"1 .. {MOST_BATCH}")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(message)s")
    if not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device: the kernels are timed on a GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda q: build("gemv_trellis", architecture(device), {"QUARTERS": q}), options.quarters))
    codes = torch.randint(0, 256, (READ_BYTES,), dtype=torch.uint8, device=device)
    limit, rows = read_limit(codes), []
    log.info("plain read: %.0f GB/s", limit)
    for model in options.models:
        for layer, shape in LAYERS[model].items():
            for quarters in options.quarters:
                for batch in options.batches:
                    times = chain_microseconds(codes, shape, quarters, batch)
                    median = statistics.median(times)
                    speed = shape[0] * shape[1] * quarters / 32 / median / 1e3
                    row = {"model": model, "layer": layer, "out_features": shape[0], "in_features": shape[1],
                           "quantizer": f"trellis-{quarters / 4:g}", "kernel": "tensor-core", "batch": batch,
                           "latency_us": median, "least_us": min(times), "most_us": max(times),
                           "gigabytes_per_s": speed, "fraction_of_read": speed / limit}  # fmt: skip
                    rows.append(row)
                    log.info("%s %s %.2f bits, batch %d: %.2f us, %.0f GB/s, %.1f %%", model, layer, quarters / 4,
                             batch, median, speed, 100 * speed / limit)  # fmt: skip
    content = {"read_gigabytes_per_s": limit, "environment": environment(device), "rows": rows}
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
