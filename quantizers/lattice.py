r"""Eight weights at once to the nearest of the 2^16 points of E8P (`e8`, 2 bits a weight; `quantizers.e8p`).

    (w_8i .. w_8i+7) ~ s p_j,   j = argmin |g w / rms - p_j|^2,   s refitted per row by least squares (float16)

A row whose length is no multiple of 8 is filled with zeros, which are charged: 2 ceil(C / 8) bytes a row. Codes are j,
16 bits each, row-major, little-endian. g = 1.03 (QuIP#) is within 1e-4 of the best gain for a Gaussian source."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.blocks import block_count, from_blocks, to_blocks
from quantizers.codebooks import refuse_codebook
from quantizers.columns import ColumnQuantizer, Tensors, encode_at_once
from quantizers.e8p import DIMENSIONS, nearest_points, points
from quantizers.packing import pack, unpack
from quantizers.weights import fitted_scale, half, normalized, rms, scaled

CODE_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice(ColumnQuantizer):
    """`e8`. `gain`: what the source of unit variance is multiplied by before the search."""

    gain: float = 1.03

    @property
    def name(self) -> str:
        return "e8"

    @property
    def bits_per_weight(self) -> float:
        return CODE_BITS / DIMENSIONS

    @property
    def bytes_per_row(self) -> int:
        return 2

    @property
    def rotated(self) -> bool:
        return True

    def settings(self) -> dict[str, Setting]:
        return {"quantizer": self.name, "gain": self.gain}

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        return 2 * out_features * block_count(in_features, DIMENSIONS) + 2 * out_features

    def encode(self, weight: torch.Tensor) -> Encoded:
        return encode_at_once(self, weight)

    @property
    def column_block(self) -> int:
        return DIMENSIONS

    @property
    def row_block(self) -> int:
        return 1

    def scales(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"row_scale": half(rms(weight))}

    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        source = to_blocks(normalized(columns, scales["row_scale"]) * self.gain, DIMENSIONS)
        return torch.from_numpy(nearest_points(source.view(-1, DIMENSIONS).numpy())).view(source.shape[:2])

    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        return unit(symbols, width) * (scales["row_scale"].to(torch.float32) / self.gain)[:, None]

    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        rows, columns = weight.shape
        scale = fitted_scale(weight, unit(symbols, columns), metric)
        tensors = {"codes": pack(symbols, CODE_BITS), "row_scale": scale}
        return Encoded(out_features=rows, in_features=columns, tensors=tensors)

    def decode(self, encoded: Encoded) -> torch.Tensor:
        rows, columns = encoded.out_features, encoded.in_features
        vectors = block_count(columns, DIMENSIONS)
        index = unpack(encoded.tensors["codes"], CODE_BITS, rows * vectors)
        coded = unit(index.view(rows, vectors), columns)
        return scaled(coded, encoded.tensors["row_scale"])

    def codebook(self) -> torch.Tensor | None:
        return None

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        refuse_codebook(codebook, self.name)


def unit(codes: torch.Tensor, in_features: int) -> torch.Tensor:
    """Codes (out, vectors) -> points (out, in), at scale one."""
    return from_blocks(points(codes.reshape(-1)).view(*codes.shape, DIMENSIONS), in_features)
