r"""Round to nearest on a uniform grid between the extremes of a group, with a zero point (`int-4-g128-asym`).

    w ~ s (q - z),   q, z in 0 .. 2^B - 1,   s = (high - low) / (2^B - 1) (float16),   z = round(-low / s)

low = min(0, min w) and high = max(0, max w) over the group, so that zero is a grid point. Zero points take B bits each:
B + (16 + B) / G bits a weight. The gain over the symmetric grid is its fourth part: one more level, and one-sided groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.blocks import block_count, checked_blocks, spread, to_blocks
from quantizers.packing import pack, packed_bytes, unpack
from quantizers.weights import checked, half


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineInteger(Quantizer):
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
        matrix = checked(weight)
        rows, columns = matrix.shape
        blocks, top = to_blocks(matrix, self.group), (1 << self.bits) - 1
        low, high = blocks.amin(2).clamp(max=0).double(), blocks.amax(2).clamp(min=0).double()
        scales = half((high - low) / top)
        inverse = torch.where(scales == 0, 0.0, 1 / scales.double())
        zeros = (-low * inverse).round().clamp(0, top)
        q = (matrix * spread(inverse.float(), self.group, columns)).round() + spread(zeros, self.group, columns)
        codes, zeros = pack(q.clamp(0, top), self.bits), pack(zeros, self.bits)
        tensors = {"codes": codes, "scales": scales, "zeros": zeros}
        return Encoded(out_features=rows, in_features=columns, tensors=tensors)

    def decode(self, encoded: Encoded) -> torch.Tensor:
        rows, columns = encoded.out_features, encoded.in_features
        scales = checked_blocks(encoded.tensors["scales"], rows, columns, self.group, "scales")
        zeros = unpack(encoded.tensors["zeros"], self.bits, scales.numel()).view(scales.shape)
        q = unpack(encoded.tensors["codes"], self.bits, rows * columns).view(rows, columns)
        steps = (q - spread(zeros, self.group, columns)).to(torch.float32)
        return steps * spread(scales.to(torch.float32), self.group, columns)

    def codebook(self) -> torch.Tensor | None:
        return None

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        raise ValueError(f"{self.name} reads no codebook, got one of shape {tuple(codebook.shape)}")
