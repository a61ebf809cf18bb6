r"""What every quantizer is: frozen settings that turn a weight matrix into exactly counted bytes and back.

    encode: W (out, in) float32, rotated  ->  Encoded {codes uint8, row_scale float16 (out,), ...}
    decode: Encoded                       ->  W_hat (out, in) float32

Invariants that the tests hold every member of `quantizers.FAMILIES` to:
* the bytes of `Encoded.tensors` are `storage_bytes(out, in)`, so that what the allocator charges is what is held;
* `decode(encode(W))` depends on `settings()` and W alone: same input, same codes, on every run of one machine;
* tensors are integers or float16, whatever they stand for, so that `.to(dtype)` of a module cannot round them;
* `settings()` is JSON and names all that decides the codes (it is the key of the code cache)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

Setting = int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One quantized matrix: `tensors` are what the checkpoint stores under `<layer>.<key>`, and nothing else."""

    out_features: int
    in_features: int
    tensors: Mapping[str, torch.Tensor]

    @property
    def storage_bytes(self) -> int:
        """Bytes held, summed over the tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


class Quantizer(ABC):
    """A way to store a matrix at a fixed rate. Implementations are frozen dataclasses, their settings."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in quantizers.csv: `tcq-3.5`, `int-4-g128`, `fp16`."""

    @property
    @abstractmethod
    def bits_per_weight(self) -> float:
        """Bits per weight of codes, group scales and zero points, in a shape without padding; without row scales (those
        are `bytes_per_row`)."""

    @property
    @abstractmethod
    def bytes_per_row(self) -> int:
        """Bytes of scales that each output row adds."""

    @property
    @abstractmethod
    def rotated(self) -> bool:
        """Whether `encode` expects the rotated weight (all but `fp16`, which stores the weight as it is)."""

    @abstractmethod
    def settings(self) -> dict[str, Setting]:
        """All that decides the codes besides the weight, JSON-able."""

    @abstractmethod
    def storage_bytes(self, out_features: int, in_features: int) -> int:
        """Exact bytes of one stored matrix: codes, scales, zero points, padding. Codebooks, which the model's layers
        share, are not in here."""

    @abstractmethod
    def encode(self, weight: torch.Tensor) -> Encoded:
        """weight: (out, in), finite, floating point, CPU. Raises ValueError on NaN, Inf or a shape that is not 2-D."""

    @abstractmethod
    def decode(self, encoded: Encoded) -> torch.Tensor:
        """(out, in) float32 on the device of the codes."""

    @abstractmethod
    def codebook(self) -> torch.Tensor | None:
        """The table `decode` reads, float16, stored once per model; None where there is none."""

    @abstractmethod
    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        """The same quantizer reading this table (the checkpoint's own). ValueError on a wrong shape."""


def bytes_per_layer(quantizer: Quantizer) -> int:
    """Bytes that a matrix of any shape holds besides bits_per_weight and bytes_per_row, such as a scale of the whole
    matrix: `codebook_bytes` of quantizers.csv."""
    rows, columns = 256, 1024  # no tile, block or half needs padding
    codes = round(rows * columns * quantizer.bits_per_weight / 8)
    return quantizer.storage_bytes(rows, columns) - codes - rows * quantizer.bytes_per_row
