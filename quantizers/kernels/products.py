"""Ways to make y = x W^T that can be timed against each other: from packed codes, dense by cuBLAS, PyTorch's int4.

A way is prepared for a shape on a pool of random bytes: several weights side by side, so that a chain of products reads
each from memory and not from a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch

from quantizers.base import Quantizer
from quantizers.kernels import block_rotation, gemv
from quantizers.kernels.activation_bytes import ActivationBytes, Form, made
from quantizers.kernels.packed_product import Input, form_of, multiply
from quantizers.kernels.place import Place
from quantizers.rotation import MOST_BLOCK, Rotation

Work = Callable[[Input, torch.Tensor], object]  # (x (batch, columns), y (batch, rows)): the product, into y
Turn = Callable[[torch.Tensor], Input]  # x -> what a product reads of it
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

    def turned(self, columns: int) -> Turn | None:
        """The rotation that stands before a product in a model, None where none does."""

    def prepared(
        self, pool: torch.Tensor, rows: int, columns: int, copies: int, *, place: Place = Place.IN_A_ROW
    ) -> Sequence[Work]:
        """A product with each of `copies` weights in the pool, (bytes,) uint8, random."""


class Packed:
    """From the codes of a quantizer."""

    kernel, dtype = "tensor-core", torch.float16

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer, self._quantizer = quantizer.name, quantizer
        self._form = form_of(quantizer)
        self._bytes: dict[torch.Size, ActivationBytes] = {}

    def weight_bytes(self, rows: int, columns: int) -> int:
        """All but the row scales."""
        return self._quantizer.storage_bytes(rows, columns) - rows * self._quantizer.bytes_per_row

    def takes(self, rows: int, columns: int, batch: int) -> bool:
        """Shapes and batches of the kernels."""
        return gemv.takes(rows, columns, batch)

    def turned(self, columns: int) -> Turn | None:
        """By the kernel of rotations, None where it does not take this width."""
        rotation = Rotation(in_features=columns, seed=0, group="", most_block=MOST_BLOCK)
        if not block_rotation.takes(rotation):
            return None

        def turn(x: torch.Tensor) -> Input:
            halves = self._form is Form.NONE
            found = block_rotation.rotate(block_rotation.plain(x), rotation, halves=halves, form=self._form)
            result = found.y if halves else found.bytes
            assert result is not None
            return result

        return turn

    def prepared(
        self, pool: torch.Tensor, rows: int, columns: int, copies: int, *, place: Place = Place.IN_A_ROW
    ) -> Sequence[Work]:
        """Scales of one over the root of the columns: a chain keeps its size."""
        size, step = self.weight_bytes(rows, columns), spacing(self.weight_bytes(rows, columns))
        scale = torch.full((rows,), columns**-0.5, dtype=torch.float16, device=pool.device)
        return [self._work(pool[i * step :][:size], scale, place) for i in range(copies)]

    def _work(self, codes: torch.Tensor, scale: torch.Tensor, place: Place) -> Work:
        quantizer, held = self._quantizer, self._table_beside(codes)

        def work(x: Input, y: torch.Tensor) -> None:
            given = self._bytes_of(x) if self._form is not Form.NONE and isinstance(x, torch.Tensor) else x
            multiply(quantizer, held, codes, scale, given, y, place=place)

        return work

    def _table_beside(self, codes: torch.Tensor) -> torch.Tensor | None:
        """The codebook on the device of the codes, None where values are computed."""
        table = self._quantizer.codebook()
        return None if table is None else table.to(codes.device)

    def _bytes_of(self, x: torch.Tensor) -> ActivationBytes:
        """Of the first x of a shape: in a model rotations make them, and the wait for the one before is the same."""
        if x.shape not in self._bytes:
            self._bytes[x.shape] = made(x, self._form)
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

    def turned(self, columns: int) -> Turn | None:
        """None."""
        return None

    def prepared(
        self, pool: torch.Tensor, rows: int, columns: int, copies: int, *, place: Place = Place.IN_A_ROW
    ) -> Sequence[Work]:
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

    def turned(self, columns: int) -> Turn | None:
        """None."""
        return None

    def prepared(
        self, pool: torch.Tensor, rows: int, columns: int, copies: int, *, place: Place = Place.IN_A_ROW
    ) -> Sequence[Work]:
        """Its products have an output of their own: y stays as it is."""
        found: list[Work] = []
        for i in range(copies):
            codes = pool[i * rows * columns // 2 :][: rows * columns // 2].view(rows, columns // 2)
            packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
            scales = torch.full((columns // GROUP, rows, 2), 1e-2, dtype=torch.bfloat16, device=pool.device)
            found.append(partial(_int4, packed, scales))
        return found


def _dense(weight: torch.Tensor, x: Input, y: torch.Tensor) -> None:
    assert isinstance(x, torch.Tensor)
    torch.mm(x, weight.T, out=y)


def _int4(packed: torch.Tensor, scales: torch.Tensor, x: Input, y: torch.Tensor) -> None:
    assert isinstance(x, torch.Tensor)
    torch.ops.aten._weight_int4pack_mm(x, packed, GROUP, scales)


def spacing(size: int) -> int:
    """Bytes from one weight to the next in a pool."""
    return -(-size // ALIGNMENT) * ALIGNMENT
