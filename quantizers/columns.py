r"""Coding a matrix column block by column block: the capability that error feedback (`quantizers.feedback`) rests on.

    scales(W)              fixed beforehand, from the whole weight
    code_columns(T, k)     T (out, width) -> symbols of the columns from k on, nearest to T at these scales
    decode_columns(...)    what these symbols stand for, which the feedback to the columns after them starts from
    assemble(W, symbols)   all symbols, joined along dimension 1 -> Encoded; row scales are refitted to W

Plain encoding is the same with one block of all columns (`encode_at_once`). Symbols are integers of shape (units,
columns / column_block, ...): a unit is the rows that one symbol speaks of, one row or the 16 of a trellis tile."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch

from quantizers.base import Encoded, Quantizer
from quantizers.weights import checked

Tensors = Mapping[str, torch.Tensor]


class ColumnQuantizer(Quantizer):
    """A quantizer that can code any run of whole column blocks by itself. Implementations are frozen dataclasses."""

    @property
    @abstractmethod
    def column_block(self) -> int:
        """Columns that one symbol speaks of: the least that can be coded together. The last block may be narrower."""

    @property
    @abstractmethod
    def row_block(self) -> int:
        """Rows that one symbol speaks of: a unit. The last may have fewer."""

    @abstractmethod
    def scales(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What coding holds fixed, among it the tensors of `Encoded` besides the codes. weight: (out, in) float32."""

    @abstractmethod
    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        """Symbols (units, blocks, ...) of columns (out, width) float32 from `first` on, which begins a block."""

    @abstractmethod
    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        """(out, width) float32: what the symbols of the `width` columns from `first` on stand for."""

    @abstractmethod
    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        """Pack all symbols of the weight (out, in). Row scales that are refitted minimize tr(E H E') for the metric H
        (in, in), |E|^2 where it is None."""


def encode_at_once(quantizer: ColumnQuantizer, weight: torch.Tensor) -> Encoded:
    """Plain encoding: all columns as one block. ValueError as `Quantizer.encode`."""
    matrix = checked(weight)
    scales = quantizer.scales(matrix)
    return quantizer.assemble(matrix, quantizer.code_columns(matrix, scales, 0), scales)
