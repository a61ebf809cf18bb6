"""Products of more rows than a kernel takes at once: in passes of 16, or with the weight decoded to 16 bits and cuBLAS.

Which is faster depends on the batch: passes read the codes every time, decoding writes two bytes a weight once.
`bench --prompts` measures both, and `packed_product.most_batch` is the rule that the operator takes from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from quantizers.base import Quantizer
from quantizers.kernels import chain, gemv
from quantizers.kernels.dequantize import dequantize
from quantizers.kernels.packed_product import Input, multiply
from quantizers.kernels.place import Place
from quantizers.kernels.products import Packed, Way, Work

PASSES, DECODED = "passes", "dequantize+cublas"


class Prompt(Packed):
    """A way for batches beyond those of one product."""

    def takes(self, rows: int, columns: int, batch: int) -> bool:
        """Shapes of the kernels, any larger batch."""
        return gemv.takes(rows, columns, 1) and batch > gemv.MOST_BATCH


class Passes(Prompt):
    """The product of every 16 rows for itself, their bytes (`activation_bytes`) made too."""

    kernel = PASSES

    def _work(self, codes: torch.Tensor, scale: torch.Tensor, place: Place) -> Work:
        table = self._table_beside(codes)

        def work(x: Input, y: torch.Tensor) -> None:
            assert isinstance(x, torch.Tensor)
            multiply(self._quantizer, table, codes, scale, x, y, place=place)

        return work


class Decoded(Prompt):
    """The weight of 16 bits, then cuBLAS. with_product=False: the weight alone."""

    kernel = DECODED

    def __init__(self, quantizer: Quantizer, *, with_product: bool = True) -> None:
        super().__init__(quantizer)
        self._with_product = with_product

    def _work(self, codes: torch.Tensor, scale: torch.Tensor, place: Place) -> Work:
        table = self._table_beside(codes)

        def work(x: Input, y: torch.Tensor) -> None:
            assert isinstance(x, torch.Tensor)
            weight = x.new_empty(len(scale), x.shape[1])
            dequantize(self._quantizer, table, codes, scale, weight)
            if self._with_product:
                torch.mm(x, weight.T, out=y)

        return work


def prompt_ways(quantizers: Sequence[Quantizer]) -> list[Way]:
    """Both of each."""
    return [way for quantizer in quantizers for way in (Passes(quantizer), Decoded(quantizer))]


def copy_limit(pool: torch.Tensor) -> float:
    """GB/s, read and written, of a copy of half the pool onto the other."""
    half = pool.numel() // 2

    def copy() -> None:
        pool[:half].copy_(pool[half : 2 * half])

    copy()
    return 2 * half / statistics.median(chain.microseconds(copy, 15)) / 1e3


def decoding_row(quantizer: Quantizer, pool: torch.Tensor, shape: tuple[int, int], limit: float) -> dict[str, Any]:
    """The decoding of one matrix, (out, in), against a copy: bytes of codes read and of weights written."""
    way = Decoded(quantizer, with_product=False)
    times = chain.chain_microseconds(way, pool, shape, 1)
    median, moved = statistics.median(times), way.weight_bytes(*shape) + 2 * shape[0] * shape[1]
    return {
        "quantizer": quantizer.name, "out_features": shape[0], "in_features": shape[1], "latency_us": median,
        "least_us": min(times), "most_us": max(times), "gigabytes_per_s": moved / median / 1e3,
        "fraction_of_copy": moved / median / 1e3 / limit,
    }  # fmt: skip


def crossovers(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """model, layer, quantizer, batch: the least measured batch from which on decoding is faster; none: not at any."""
    table = pd.DataFrame(rows, columns=pd.Index(["model", "layer", "quantizer", "kernel", "batch", "latency_us"]))
    table = table[table.kernel.isin([PASSES, DECODED])]
    wide = table.pivot_table(index=["model", "layer", "quantizer", "batch"], columns="kernel", values="latency_us")
    found = []
    for key, own in wide.groupby(level=[0, 1, 2], sort=False):
        slower = own.index[~(own[DECODED] < own[PASSES])].get_level_values("batch")
        later = [int(batch) for *_, batch in own.index if batch > max(slower, default=0)]
        found.append((*key, min(later) if later else None))
    return pd.DataFrame(found, columns=pd.Index(["model", "layer", "quantizer", "batch"])).astype({"batch": "Int64"})
