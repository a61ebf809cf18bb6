"""Ways to make y = x W^T that can be timed against each other: from packed codes, dense by cuBLAS, PyTorch's int4.

A way is prepared for a shape on a pool of random bytes: several weights side by side, so that a chain of products reads
each from memory and not from a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch

from quantizers.base import Quantizer
from quantizers.kernels import gemv, gemv_table, pair_bytes
from quantizers.kernels.pair_bytes import PairBytes
from quantizers.trellis import ComputedPair
from quantizers.trellis.computed import native_state_bits
from quantizers.trellis.computed_trellis import ComputedTrellis

Work = Callable[[torch.Tensor, torch.Tensor], object]  # (x (batch, columns), y (batch, rows)): the product, into y
ALIGNMENT = 256
GROUP = 128  # of PyTorch's int4


class Way(Protocol):
    """One way to make products."""

    @property
    def quantizer(self) -> str:
        """The name in the tables."""

    @property
    def kernel(self) -> str:
        """`tensor-core`, or the library that it is."""

    @property
    def dtype(self) -> torch.dtype:
        """Of x and y."""

    def weight_bytes(self, rows: int, columns: int) -> int:
        """Bytes of codes that a product reads."""

    def takes(self, rows: int, columns: int, batch: int) -> bool:
        """Whether it can make this product."""

    def prepared(self, pool: torch.Tensor, rows: int, columns: int, copies: int) -> Sequence[Work]:
        """A product with each of `copies` weights in the pool, (bytes,) uint8, random."""


class Packed:
    """From the codes of a quantizer."""

    kernel, dtype = "tensor-core", torch.float16

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer, self._quantizer = quantizer.name, quantizer
        self._bytes: dict[torch.Size, PairBytes] = {}

    def weight_bytes(self, rows: int, columns: int) -> int:
        """All but the row scales."""
        return self._quantizer.storage_bytes(rows, columns) - rows * self._quantizer.bytes_per_row

    def takes(self, rows: int, columns: int, batch: int) -> bool:
        """Shapes and batches of the kernels."""
        return gemv.takes(rows, columns, batch)

    def prepared(self, pool: torch.Tensor, rows: int, columns: int, copies: int) -> Sequence[Work]:
        """Scales of one over the root of the columns: a chain keeps its size."""
        size, step = self.weight_bytes(rows, columns), spacing(self.weight_bytes(rows, columns))
        scale = torch.full((rows,), columns**-0.5, dtype=torch.float16, device=pool.device)
        return [self._work(pool[i * step :][:size], scale) for i in range(copies)]

    def _work(self, codes: torch.Tensor, scale: torch.Tensor) -> Work:
        if isinstance(self._quantizer, ComputedTrellis):
            quarters = self._quantizer.quarters
            return lambda x, y: gemv.multiply(codes, scale, x, y, quarters)
        table = self._quantizer.codebook()
        held = None if table is None else table.to(codes.device)
        if isinstance(self._quantizer, ComputedPair):
            return lambda x, y: gemv_table.multiply(self._quantizer, None, codes, scale, self._bytes_of(x), y, alone=False)
        return lambda x, y: gemv_table.multiply(self._quantizer, held, codes, scale, x, y, alone=False)

    def _bytes_of(self, x: torch.Tensor) -> PairBytes:
        """Of the first x of a shape: in a model rotations make them, and a product waits for the one before it alike."""
        if x.shape not in self._bytes:
            self._bytes[x.shape] = pair_bytes.made(x)
        return self._bytes[x.shape]


class Dense:
    """16-bit weights, by cuBLAS."""

    quantizer, kernel, dtype = "fp16", "cublas", torch.float16

    def weight_bytes(self, rows: int, columns: int) -> int:
        """Two a weight."""
        return 2 * rows * columns

    def takes(self, rows: int, columns: int, batch: int) -> bool:
        """All."""
        return True

    def prepared(self, pool: torch.Tensor, rows: int, columns: int, copies: int) -> Sequence[Work]:
        """Random normal weights."""
        weights = [torch.randn(rows, columns, device=pool.device).mul_(columns**-0.5).half() for _ in range(copies)]
        return [partial(_dense, weight) for weight in weights]


class PyTorchInt4:
    """4 bits and a scale and zero point for each 128 weights, by PyTorch's own kernel, in bfloat16."""

    quantizer, kernel, dtype = f"int-4-g{GROUP}-asym", "pytorch", torch.bfloat16

    def weight_bytes(self, rows: int, columns: int) -> int:
        """Codes, scales and zero points."""
        return rows * columns // 2 + 4 * rows * columns // GROUP

    def takes(self, rows: int, columns: int, batch: int) -> bool:
        """Whole groups, and tiles of its layout."""
        return not columns % GROUP and not rows % 8

    def prepared(self, pool: torch.Tensor, rows: int, columns: int, copies: int) -> Sequence[Work]:
        """Its products have an output of their own: y stays as it is."""
        found: list[Work] = []
        for i in range(copies):
            codes = pool[i * rows * columns // 2 :][: rows * columns // 2].view(rows, columns // 2)
            packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
            scales = torch.full((columns // GROUP, rows, 2), 1e-2, dtype=torch.bfloat16, device=pool.device)
            found.append(partial(_int4, packed, scales))
        return found


def _dense(weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
    torch.mm(x, weight.T, out=y)


def _int4(packed: torch.Tensor, scales: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
    torch.ops.aten._weight_int4pack_mm(x, packed, GROUP, scales)


def spacing(size: int) -> int:
    """Bytes from one weight to the next in a pool."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def has_kernel(quantizer: Quantizer) -> bool:
    """Whether products with the codes of a quantizer have a kernel."""
    if isinstance(quantizer, ComputedTrellis):
        return quantizer.states == native_state_bits(quantizer.quarters)
    return gemv_table.multiplied(quantizer)
