"""Every kind of kernel on random numbers, for NVIDIA's checkers of memory and of races:

    compute-sanitizer --tool memcheck python -m quantizers.kernels.each_once
    compute-sanitizer --tool racecheck python -m quantizers.kernels.each_once --few

Each is made twice, into poisoned results, and must give the same bits, all finite."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch

from quantizers.base import Quantizer
from quantizers.kernels import block_rotation, hadamard
from quantizers.kernels.activation_bytes import Form, made
from quantizers.kernels.bench import begun, build_all
from quantizers.kernels.dequantize import dequantize
from quantizers.kernels.encode import search_paths
from quantizers.kernels.packed_product import multiply
from quantizers.kernels.place import Place
from quantizers.rotation import Rotation
from quantizers.trellis.computed import CONSTANTS

log = logging.getLogger(__name__)
# One of each template: with and without a pattern of shifts, of 16 and 17 state bits, codes in tiles and in rows
QUANTIZERS = (
    *("trellis-1.5", "trellis-2", "trellis-3", "trellis-3.25", "trellis-4", "trellis-6", "trellis2-2", "trellis2-3"),
    *("tcq-2", "tcq-3", "half-tcq-3.25", "vq-2", "vq-3", "nuq-3", "nuq-4", "nuq-5"),
)
SHAPES, BATCHES = ((48, 576), (2128, 4096), (16, 14336)), (1, 3, 8, 16)
FEW_SHAPES, FEW_BATCHES = ((48, 576),), (1, 8)
Into = Callable[[torch.Tensor], object]  # makes what it is given


def of_codes(
    quantizer: Quantizer, shapes: Sequence[tuple[int, int]], batches: Sequence[int], device: torch.device
) -> Iterator[tuple[str, tuple[int, int], Into]]:
    """(name, shape of the result, work): the decoding, and products in every place."""
    table = quantizer.codebook()
    held = None if table is None else table.to(device)
    for rows, columns in shapes:
        size = quantizer.storage_bytes(rows, columns) - rows * quantizer.bytes_per_row
        codes = torch.randint(0, 256, (int(size),), dtype=torch.uint8, device=device)
        scale = torch.full((rows,), columns**-0.5, dtype=torch.float16, device=device)
        name = f"{quantizer.name} {rows} x {columns}"
        yield f"{name} decoded", (rows, columns), partial(dequantize, quantizer, held, codes, scale)
        for batch in batches:
            x = torch.randn(batch, columns, dtype=torch.float16, device=device)
            for place in Place:
                work = partial(multiply, quantizer, held, codes, scale, x, place=place)
                yield f"{name} batch {batch}, {place.name.lower()}", (batch, rows), work


def of_activations(batches: Sequence[int], device: torch.device) -> Iterator[tuple[str, tuple[int, int], Into]]:
    """Rotations, with and without what stands before them, and bytes."""
    for batch in batches:
        for columns in (512, 4096):
            x, other = torch.randn(2, batch, columns, dtype=torch.float16, device=device)
            turn = Rotation(in_features=columns, seed=0, group="", most_block=2048)
            sources = {
                "": block_rotation.plain(x),
                "norm": block_rotation.normed(x, other, torch.ones_like(x[0]), 1e-5),
                "gate": block_rotation.gated(x, other),
            }
            for name, source in sources.items():

                def rotated(y: torch.Tensor, source: block_rotation.Source = source, turn: Rotation = turn) -> None:
                    found = block_rotation.rotate(source, turn, halves=True, form=Form.SINGLES).y
                    assert found is not None
                    y.copy_(found)

                yield f"rotation of {batch} x {columns} {name}", (batch, columns), rotated
            for form in (Form.SINGLES, Form.PAIRS):
                yield f"bytes of {batch} x {columns}, {form.name}", (batch, 1), partial(_scales, x, form)
        for columns in (576, 1536):
            x = torch.randn(batch, columns, dtype=torch.float16, device=device)
            turn = Rotation(in_features=columns, seed=0, group="", most_block=0)
            if hadamard.defines(turn):
                yield f"rotation of {batch} x {columns}", (batch, columns), partial(_turned, x, turn)


def _turned(x: torch.Tensor, turn: Rotation, y: torch.Tensor) -> None:
    hadamard.rotate(x, y, turn)


def _scales(x: torch.Tensor, form: Form, into: torch.Tensor) -> None:
    into.copy_(made(x, form).scales)


def _searched(source: torch.Tensor, quarters: int, into: torch.Tensor) -> None:
    into.copy_(search_paths(source, quarters, multiplier=CONSTANTS[quarters][0], window=32))


def make_twice(works: Iterable[tuple[str, tuple[int, int], Into]], device: torch.device) -> None:
    """RuntimeError where two results differ in a bit, or a number is missing."""
    for name, shape, work in works:
        found = [torch.full(shape, torch.nan, dtype=torch.float16, device=device) for _ in range(2)]
        for result in found:
            work(result)
        if not torch.equal(*found) or not bool(found[0].isfinite().all()):
            raise RuntimeError(f"{name}: two runs differ, or a number is missing")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make everything twice; errors as of `make_twice`."""
    parser = argparse.ArgumentParser(description="run every kind of kernel, for compute-sanitizer")
    parser.add_argument("--quantizers", nargs="*", default=QUANTIZERS, help="names or shell patterns")
    parser.add_argument(
        "--few", action="store_true", help="one small shape and two batches: races take long to look for"
    )
    options = parser.parse_args(arguments)
    quantizers, device = begun(options.quantizers)
    shapes, batches = (FEW_SHAPES, FEW_BATCHES) if options.few else (SHAPES, BATCHES)
    build_all(quantizers, device)
    works = [work for quantizer in quantizers for work in of_codes(quantizer, shapes, batches, device)]
    works += of_activations(batches, device)
    tiles = torch.randint(-400, 400, (3, 256), dtype=torch.int16, device=device)
    works += [
        (f"search at {quarters / 4:g} bits", (3, 256), partial(_searched, tiles, quarters)) for quarters in (8, 13)
    ]
    make_twice(works, device)
    log.info("%d results made twice, bit for bit the same", len(works))


if __name__ == "__main__":
    main()
