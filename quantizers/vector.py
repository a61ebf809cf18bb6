r"""Two weights at once, to the nearest of 2^b points, k-means of a two-dimensional Gaussian (`vq-1.5` .. `vq-6`).

    (w_2i, w_2i+1) ~ s p_j,   j = argmin |w / rms - p_j|^2,   s refitted per row by least squares (float16)

b = 2 x rate bits for a pair of neighbours in a row. A row of odd length gets one zero more, which is charged. Codes are
j, row-major, little-endian; the points ascend in their first coordinate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.codebooks import ascending, checked_codebook, computed, fingerprint
from quantizers.columns import ColumnQuantizer, Tensors, encode_at_once
from quantizers.k_means import gaussian_k_means, nearest
from quantizers.packing import pack, packed_bytes, unpack
from quantizers.weights import fitted_scale, half, normalized, rms, scaled

SAMPLES = 512  # per point, as far as MOST: their own error is then below 0.1 %
MOST = 1 << 20
STEPS = 60


@cache
def _points(index_bits: int) -> torch.Tensor:
    count = 1 << index_bits
    samples = min(MOST, max(1 << 16, SAMPLES * count))
    name = f"vq-{index_bits / 2:g}-{samples}-{STEPS}"
    return computed(name, (count, 2), lambda: gaussian_k_means(count, steps=STEPS, samples=samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector(ColumnQuantizer):
    """`vq-R`: `index_bits` = 2 R (3..12) for two weights; `points`: (2^index_bits, 2) float16, computed where None."""

    index_bits: int
    points: torch.Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 3 <= self.index_bits <= 12:
            raise ValueError(f"a vector quantizer has 3 to 12 bits for two weights, not {self.index_bits}")

    @property
    def name(self) -> str:
        return f"vq-{self.index_bits / 2:g}"

    @property
    def bits_per_weight(self) -> float:
        return self.index_bits / 2

    @property
    def bytes_per_row(self) -> int:
        return 2

    @property
    def rotated(self) -> bool:
        return True

    def settings(self) -> dict[str, Setting]:
        return {"quantizer": self.name, "codebook": fingerprint(self.codebook())}

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        return packed_bytes(out_features * -(-in_features // 2), self.index_bits) + 2 * out_features

    def encode(self, weight: torch.Tensor) -> Encoded:
        return encode_at_once(self, weight)

    @property
    def column_block(self) -> int:
        return 2

    @property
    def row_block(self) -> int:
        return 1

    def scales(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"row_scale": half(rms(weight))}

    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        points = self.codebook().to(torch.float32)
        source = torch.nn.functional.pad(normalized(columns, scales["row_scale"]), (0, columns.shape[1] % 2))
        index = nearest(source.view(-1, 2).numpy(), points.numpy())
        return torch.from_numpy(index).to(torch.int32).view(columns.shape[0], -1)

    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        return scaled(self._unit(symbols, width), scales["row_scale"])

    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        rows, columns = weight.shape
        scale = fitted_scale(weight, self._unit(symbols, columns), metric)
        tensors = {"codes": pack(symbols, self.index_bits), "row_scale": scale}
        return Encoded(out_features=rows, in_features=columns, tensors=tensors)

    def _unit(self, symbols: torch.Tensor, width: int) -> torch.Tensor:
        """(out, pairs) -> (out, width) at scale one."""
        return self.codebook().to(symbols.device, torch.float32)[symbols].view(len(symbols), -1)[:, :width]

    def decode(self, encoded: Encoded) -> torch.Tensor:
        rows, columns = encoded.out_features, encoded.in_features
        symbols = unpack(encoded.tensors["codes"], self.index_bits, rows * -(-columns // 2)).view(rows, -1)
        return scaled(self._unit(symbols, columns), encoded.tensors["row_scale"])

    def codebook(self) -> torch.Tensor:
        return _points(self.index_bits) if self.points is None else self.points

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        points = checked_codebook(codebook, (1 << self.index_bits, 2), self.name)
        return replace(self, points=ascending(points, points[:, 0], self.name))
