r"""Round to nearest on a uniform grid between the extremes of a group, with a zero point (`int-4-g128-asym`).

    w ~ s (q - z),   q, z in 0 .. 2^B - 1,   s = (high - low) / (2^B - 1) (float16),   z = round(-low / s)

low = min(0, min w) and high = max(0, max w) over the group, so that zero is a grid point. Zero points take B bits each:
B + (16 + B) / G bits a weight. It has one level more than the symmetric grid, and wastes none on
the side where a group ends early."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.blocks import block_count, checked_blocks, spread_from, to_blocks
from quantizers.codebooks import refuse_codebook
from quantizers.columns import ColumnQuantizer, Tensors, encode_at_once
from quantizers.packing import pack, packed_bytes, unpack
from quantizers.weights import half, inverted


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineInteger(ColumnQuantizer):
    """`int-B-gG-asym`: B bits (2..8) a weight, a float16 scale and a zero point of B bits a group of G."""

    bits: int
    group: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or self.group < 2:
            raise ValueError(f"an integer quantizer has 2 to 8 bits and groups from 2, not {self.bits}, {self.group}")

    @property
    def name(self) -> str:
        return f"int-{self.bits}-g{self.group}-asym"

    @property
    def bits_per_weight(self) -> float:
        return self.bits + (16 + self.bits) / self.group

    @property
    def bytes_per_row(self) -> int:
        return 0

    @property
    def rotated(self) -> bool:
        return True

    def settings(self) -> dict[str, Setting]:
        return {"quantizer": self.name}

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        groups = out_features * block_count(in_features, self.group)
        return packed_bytes(out_features * in_features, self.bits) + 2 * groups + packed_bytes(groups, self.bits)

    def encode(self, weight: torch.Tensor) -> Encoded:
        return encode_at_once(self, weight)

    @property
    def column_block(self) -> int:
        return 1

    @property
    def row_block(self) -> int:
        return 1

    def scales(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        blocks, top = to_blocks(weight, self.group), (1 << self.bits) - 1
        low, high = blocks.amin(2).clamp(max=0).double(), blocks.amax(2).clamp(min=0).double()
        scales = half((high - low) / top)
        return {"scales": scales, "zeros": (-low * inverted(scales)).round().clamp(0, top)}

    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        width = columns.shape[1]
        steps = columns * spread_from(inverted(scales["scales"]).float(), self.group, first, width)
        q = steps.round() + spread_from(scales["zeros"], self.group, first, width)
        return q.clamp(0, (1 << self.bits) - 1).to(torch.int32)

    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        steps = (symbols - spread_from(scales["zeros"], self.group, first, width)).to(torch.float32)
        return steps * spread_from(scales["scales"].to(torch.float32), self.group, first, width)

    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        codes, zeros = pack(symbols, self.bits), pack(scales["zeros"], self.bits)
        tensors = {"codes": codes, "scales": scales["scales"], "zeros": zeros}
        return Encoded(out_features=weight.shape[0], in_features=weight.shape[1], tensors=tensors)

    def decode(self, encoded: Encoded) -> torch.Tensor:
        rows, columns = encoded.out_features, encoded.in_features
        scales = checked_blocks(encoded.tensors["scales"], rows, columns, self.group, "scales")
        zeros = unpack(encoded.tensors["zeros"], self.bits, scales.numel()).view(scales.shape)
        q = unpack(encoded.tensors["codes"], self.bits, rows * columns).view(rows, columns)
        return self.decode_columns(q, {"scales": scales, "zeros": zeros}, 0, columns)

    def codebook(self) -> torch.Tensor | None:
        return None

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        refuse_codebook(codebook, self.name)
