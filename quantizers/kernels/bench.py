"""Times of the products against the memory limit of the same run: microseconds, GB/s of codes, share of a plain read.

Runs where torch and nvcc are: `python -m quantizers.kernels.bench --out FILE`; `python -m experiments.bench_kernels`
wraps it. The protocol is `chain`; beside the quantizers stand the same layers in 16 bits and PyTorch's int4. A run that
was cut off goes on where FILE ends."""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from quantizers import names, palette
from quantizers.base import Quantizer
from quantizers.kernels import chain, gemv_table
from quantizers.kernels.build import KernelUnavailableError, architecture, build, here
from quantizers.kernels.gemv import MOST_BATCH
from quantizers.kernels.packed_product import has_kernel
from quantizers.kernels.products import Dense, Packed, PyTorchInt4, Way
from quantizers.kernels.prompts import copy_limit, crossovers, decoding_row, prompt_ways
from quantizers.trellis.computed_trellis import ComputedTrellis

log = logging.getLogger(__name__)
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
FEW = ["trellis-2", "trellis-3", "trellis-3.25", "trellis-4"]


def chosen(patterns: Sequence[str]) -> list[Quantizer]:
    """The quantizers that have a kernel, of those whose names fit. ValueError where none has."""
    found = [quantizer for quantizer in palette(patterns) if has_kernel(quantizer)]
    if not found:
        raise ValueError(f"no quantizer of {', '.join(patterns)} has a kernel; there are {', '.join(names())}")
    return found


def begun(patterns: Sequence[str]) -> tuple[list[Quantizer], torch.device]:
    """Of a command: what it runs and where; SystemExit where there is no such quantizer or no GPU for it."""
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        quantizers = chosen(patterns)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    return quantizers, found_gpu()


def found_gpu() -> torch.device:
    """The GPU of a command; SystemExit where there is none that kernels can be built for."""
    try:
        return here()
    except KernelUnavailableError as error:
        raise SystemExit(f"error: {error}") from None


def build_all(quantizers: Sequence[Quantizer], device: torch.device) -> None:
    """The libraries of the quantizers' products, several compilers at a time."""
    wanted = [
        ("gemv_trellis", {"QUARTERS": q.quarters}) if isinstance(q, ComputedTrellis)
        else ("gemv_table", dict(gemv_table.instance(q).defines))
        for q in quantizers
    ]  # fmt: skip
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda each: build(each[0], architecture(device), each[1]), wanted))


def row(way: Way, pool: torch.Tensor, shape: tuple[int, int], batch: int, limit: float) -> dict[str, Any]:
    """One measurement."""
    times = chain.chain_microseconds(way, pool, shape, batch)
    median = statistics.median(times)
    speed = way.weight_bytes(*shape) / median / 1e3
    return {
        "out_features": shape[0], "in_features": shape[1], "quantizer": way.quantizer, "kernel": way.kernel,
        "batch": batch, "latency_us": median, "least_us": min(times), "most_us": max(times),
        "weight_bytes": way.weight_bytes(*shape), "gigabytes_per_s": speed, "fraction_of_read": speed / limit,
    }  # fmt: skip


Case = tuple[str, str, tuple[int, int], Way, int]  # model, layer, (out, in), way, batch


def cases(models: Sequence[str], ways: Sequence[Way], batches: Sequence[int]) -> Iterator[Case]:
    """All measurements that the ways can make."""
    for model in models:
        for layer, shape in LAYERS[model].items():
            for way in ways:
                for batch in batches:
                    if way.takes(*shape, batch):
                        yield model, layer, shape, way, batch


def kept(path: Path, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a run that was cut off. ValueError where they are not of this machine and these versions."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    if without_clocks(content["environment"]) != without_clocks(environment):
        raise ValueError(f"{path} is of {content['environment']}, this is {dict(environment)}: give another --out")
    return list(content["rows"])


def without_clocks(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs on one machine have in common."""
    gpu = {name: value for name, value in environment.get("gpu", {}).items() if not name.startswith("clocks")}
    return {**environment, "gpu": gpu}


def measure(
    todo: Sequence[Case], rows: list[dict[str, Any]], pool: torch.Tensor, limit: float, save: Callable[[], None]
) -> None:
    """Adds a row for every case that has none, and saves after every layer and way; a shape is timed once."""

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["model"], row["layer"], row["quantizer"], row["kernel"], row["batch"]

    def size(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["out_features"], row["in_features"], row["quantizer"], row["kernel"], row["batch"]

    there, sizes = {key(row) for row in rows}, {size(row): row for row in rows}
    for number, (model, layer, shape, way, batch) in enumerate(todo, start=1):
        if (model, layer, way.quantizer, way.kernel, batch) in there:
            continue
        twin = sizes.get((*shape, way.quantizer, way.kernel, batch))
        found = {**(twin or row(way, pool, shape, batch, limit)), "model": model, "layer": layer}
        rows.append(found)
        sizes[size(found)] = found
        numbers = found["latency_us"], found["gigabytes_per_s"], 100 * found["fraction_of_read"]
        told = "%d of %d: %s %s %s, batch %d: %.2f us, %.0f GB/s, %.1f %%"
        log.info(told, number, len(todo), model, layer, way.quantizer, batch, *numbers)
        if number == len(todo) or todo[number][:4] != (model, layer, shape, way):
            save()


def of_prompts(
    models: Sequence[str], quantizers: Sequence[Quantizer], pool: torch.Tensor, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Decoding alone, against a copy of the same run, and from which batch on it pays."""
    limit = copy_limit(pool)
    decoding = [
        {"model": model, "layer": layer, **decoding_row(quantizer, pool, shape, limit)}
        for model in models
        for layer, shape in LAYERS[model].items()
        for quantizer in quantizers
    ]
    found = crossovers(rows)
    log.info("decoding and cuBLAS is faster from this batch on\n%s", found.to_string(index=False))
    return {
        "copy_gigabytes_per_s": limit,
        "decoding": decoding,
        "crossovers": json.loads(found.to_json(orient="records")),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every shape, quantizer and batch asked for; write JSON."""
    parser = argparse.ArgumentParser(description="time the matrix products of packed codes against the read limit")
    parser.add_argument("--models", nargs="*", default=["llama-3.1-8b"], choices=sorted(LAYERS))
    parser.add_argument("--quantizers", nargs="*", default=FEW, help="names or shell patterns, such as trellis-*")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8], help=f"1 .. {MOST_BATCH}")
    parser.add_argument("--rivals", action="store_true", help="also 16 bits by cuBLAS and PyTorch's int4")
    parser.add_argument(
        "--prompts", action="store_true", help="also batches beyond 16: passes, and decoding and cuBLAS"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args(arguments)
    quantizers, device = begun(options.quantizers)
    ways: list[Way] = [Packed(quantizer) for quantizer in quantizers]
    if options.prompts:
        ways += prompt_ways(quantizers)
    if options.rivals:
        ways += [Dense(), PyTorchInt4()]
    content: dict[str, Any] = {"read_gigabytes_per_s": 0.0, "environment": chain.environment(device), "rows": []}
    try:
        content["rows"] = kept(options.out, content["environment"])
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None

    def save() -> None:
        temporary = options.out.with_name(options.out.name + ".partial")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(options.out)

    build_all(quantizers, device)
    pool = chain.random_pool(device)
    limit = content["read_gigabytes_per_s"] = chain.read_limit(pool)
    log.info("plain read: %.0f GB/s", limit)
    measure(list(cases(options.models, ways, options.batches)), content["rows"], pool, limit, save)
    if options.prompts:
        content |= of_prompts(options.models, quantizers, pool, content["rows"])
    save()


if __name__ == "__main__":
    main()
