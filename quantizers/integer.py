r"""Round to nearest on a symmetric uniform grid per row, the baseline that everything is compared with.

    w ~ s q,   q in {-m, .., m},   m = 2^(B-1) - 1,   s = max |w| / m  (float16)

Codes are q + m, B bits each, row-major, little-endian. The scale stays at the largest weight: that is the baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.codebooks import refuse_codebook
from quantizers.columns import ColumnQuantizer, Tensors, encode_at_once
from quantizers.packing import pack, packed_bytes, unpack
from quantizers.weights import half, normalized, scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer(ColumnQuantizer):
    """`int-B`: B bits a weight (2..8) and one float16 scale a row."""

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"an integer quantizer has 2 to 8 bits, not {self.bits}")

    @property
    def name(self) -> str:
        return f"int-{self.bits}"

    @property
    def bits_per_weight(self) -> float:
        return float(self.bits)

    @property
    def bytes_per_row(self) -> int:
        return 2

    @property
    def rotated(self) -> bool:
        return True

    def settings(self) -> dict[str, Setting]:
        return {"quantizer": self.name}

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        return packed_bytes(out_features * in_features, self.bits) + 2 * out_features

    def encode(self, weight: torch.Tensor) -> Encoded:
        return encode_at_once(self, weight)

    @property
    def column_block(self) -> int:
        return 1

    @property
    def row_block(self) -> int:
        return 1

    def scales(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"row_scale": half(weight.abs().amax(1).double() / self._largest)}

    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        q = normalized(columns, scales["row_scale"]).round().clamp(-self._largest, self._largest)
        return q.to(torch.int32) + self._largest

    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        return scaled((symbols - self._largest).to(torch.float32), scales["row_scale"])

    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        tensors = {"codes": pack(symbols, self.bits), "row_scale": scales["row_scale"]}
        return Encoded(out_features=weight.shape[0], in_features=weight.shape[1], tensors=tensors)

    def decode(self, encoded: Encoded) -> torch.Tensor:
        shape = (encoded.out_features, encoded.in_features)
        symbols = unpack(encoded.tensors["codes"], self.bits, shape[0] * shape[1]).view(shape)
        return self.decode_columns(symbols, encoded.tensors, 0, shape[1])

    @property
    def _largest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def codebook(self) -> torch.Tensor | None:
        return None

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        refuse_codebook(codebook, self.name)
