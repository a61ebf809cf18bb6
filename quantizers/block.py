r"""Blocks of G neighbours that share a scale, every weight the nearest value of a fixed small table.

    w ~ s c[q],   s ~ max |w| over the block / max c   (`quantizers.scales`),   q = argmin |w / s - c[q]|

Grouped integers, NormalFloat, FP4 and the microscaling formats differ in c, G and the format of s alone. The scale
stays at the largest weight, as users of these formats have it; nothing is refitted. All values of a table are float16
numbers, exact by definition: no codebook is stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.blocks import block_count, checked_blocks, nearest_codes, spread_from, to_blocks
from quantizers.codebooks import fingerprint, refuse_codebook
from quantizers.columns import ColumnQuantizer, Tensors, encode_at_once
from quantizers.packing import pack, packed_bytes, unpack
from quantizers.scales import ScaleFormat
from quantizers.weights import inverted


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(ColumnQuantizer):
    """`label`: the name; `values`: what the codes 0 .. 2^bits - 1 stand for; `group`: weights a block."""

    label: str
    bits: int
    values: tuple[float, ...]
    group: int
    scale: ScaleFormat

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8 or len(self.values) != 1 << self.bits:
            raise ValueError(f"{self.label}: {self.bits} bits (1 to 8) have 2^bits values, not {len(self.values)}")
        if self.group < 2:
            raise ValueError(f"{self.label}: a block has at least 2 weights, not {self.group}")
        table = torch.tensor(self.values, dtype=torch.float64)
        if not torch.equal(table, table.half().double()) or 0.0 not in self.values:
            raise ValueError(f"{self.label}: the values are float16 numbers, zero among them")

    @property
    def name(self) -> str:
        return self.label

    @property
    def bits_per_weight(self) -> float:
        return self.bits + self.scale.bits / self.group

    @property
    def bytes_per_row(self) -> int:
        return 0

    @property
    def rotated(self) -> bool:
        return True

    def settings(self) -> dict[str, Setting]:
        return {"quantizer": self.name, "group": self.group, "values": fingerprint(torch.tensor(self.values).half())}

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        scales = out_features * block_count(in_features, self.group) * self.scale.bits // 8
        return packed_bytes(out_features * in_features, self.bits) + scales + self.scale.bytes_per_layer

    def encode(self, weight: torch.Tensor) -> Encoded:
        return encode_at_once(self, weight)

    @property
    def column_block(self) -> int:
        return 1

    @property
    def row_block(self) -> int:
        return 1

    def scales(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.scale.encode(to_blocks(weight, self.group).abs().amax(2), max(self.values))

    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        scale = self.scale.decode(scales)
        unit = columns * spread_from(inverted(scale).float(), self.group, first, columns.shape[1])
        return nearest_codes(unit, torch.tensor(self.values))

    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        levels = torch.tensor(self.values, device=symbols.device)
        return levels[symbols] * spread_from(self.scale.decode(scales), self.group, first, width)

    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        tensors = {"codes": pack(symbols, self.bits), **scales}
        return Encoded(out_features=weight.shape[0], in_features=weight.shape[1], tensors=tensors)

    def decode(self, encoded: Encoded) -> torch.Tensor:
        rows, columns = encoded.out_features, encoded.in_features
        codes = encoded.tensors["codes"]
        checked_blocks(encoded.tensors["scales"], rows, columns, self.group, "scales")
        symbols = unpack(codes, self.bits, rows * columns).view(rows, columns)
        return self.decode_columns(symbols, encoded.tensors, 0, columns)

    def codebook(self) -> torch.Tensor | None:
        return None

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        refuse_codebook(codebook, self.name)
