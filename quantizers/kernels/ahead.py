"""All kernels ahead of time: `python -m quantizers.kernels.ahead` (`make kernels`); else each is built on first use.

Needs nvcc and no GPU: the target is named, or that of the GPU at hand. What is built already is left as it is."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.progress import Progress

from quantizers.kernels import hadamard
from quantizers.kernels.block_rotation import BLOCK_BITS, takes
from quantizers.kernels.build import KernelUnavailableError, architecture, build, compiler, here
from quantizers.kernels.gemv_table import all_defines
from quantizers.rotation import MOST_BLOCK, Rotation
from quantizers.trellis.computed import CONSTANTS

log = logging.getLogger(__name__)
HOPPER = "90a"
# Inputs of layers of well-known models: Llama 2 and 3, Qwen 2 and 3, Mistral, Gemma
WIDTHS = (896, 1024, 1536, 2048, 2560, 3072, 4096, 4864, 5120, 8192, 9728, 11008, 12288, 13824, 14336, 16384, 28672)


def instances() -> Iterator[tuple[str, Mapping[str, int]]]:
    """(source, defines) of every library of cuda/."""
    yield "read_limit", {}
    yield "encode_trellis", {}
    yield "activation_bytes", {}
    for bits in BLOCK_BITS:
        yield "block_rotation", {"POWER_BITS": bits}
    for power_bits, order in sorted(hadamard_defines()):
        yield "hadamard", {"POWER_BITS": power_bits, "ORDER": order}
    for quarters in CONSTANTS:
        yield "gemv_trellis", {"QUARTERS": quarters}
        yield "dequantize_trellis", {"QUARTERS": quarters}
    for defines in all_defines():
        yield "gemv_table", defines
        yield "dequantize_table", defines


def hadamard_defines() -> set[tuple[int, int]]:
    """(POWER_BITS, ORDER) of the blocks that `block_rotation` does not take, unlimited and limited as is usual."""
    found = set()
    for width in WIDTHS:
        for most_block in (0, MOST_BLOCK):
            rotation = Rotation(in_features=width, seed=0, group="", most_block=most_block)
            if not takes(rotation) and (given := hadamard.defines(rotation)):
                found.add((given["POWER_BITS"], given["ORDER"]))
    return found


def target() -> str:
    """The architecture of the GPU at hand, else that of Hopper cards."""
    try:
        return architecture(here())
    except KernelUnavailableError:
        return HOPPER


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what is missing, several at a time."""
    at_hand = target()
    parser = argparse.ArgumentParser(description="build all CUDA kernels ahead of time")
    parser.add_argument("--arch", default=at_hand, help=f"the target as nvcc writes it, such as 80 or 89 ({at_hand})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        compiler()
    except KernelUnavailableError as error:
        raise SystemExit(f"error: {error}") from None
    chosen, start = list(instances()), time.perf_counter()
    with Progress(transient=True) as progress, ThreadPoolExecutor(options.jobs) as pool:
        bar = progress.add_task(f"kernels for sm_{options.arch}", total=len(chosen))
        for _ in pool.map(lambda instance: build(instance[0], options.arch, instance[1]), chosen):
            progress.advance(bar)
    log.info("%d libraries for sm_%s in %.0f s", len(chosen), options.arch, time.perf_counter() - start)


if __name__ == "__main__":
    main()
