"""What the trellis quantizers have in common: tiles of 16 x 16 rotated weights, one scale a row in float16; and what
those of one rate with two weights a step have, `tcq` and `trellis2`."""

from __future__ import annotations

from abc import abstractmethod

import torch

from quantizers.base import Encoded
from quantizers.columns import ColumnQuantizer, Tensors, encode_at_once
from quantizers.trellis.part import closest_states, decode_part, part_bytes, path_codes, path_values
from quantizers.trellis.tiles import SIDE
from quantizers.weights import fitted_scale, half, normalized, rms, scaled


class TileQuantizer(ColumnQuantizer):
    """The first estimate of a row's scale is its root mean square."""

    @property
    def bytes_per_row(self) -> int:
        return 2

    @property
    def rotated(self) -> bool:
        return True

    @property
    def column_block(self) -> int:
        return SIDE

    @property
    def row_block(self) -> int:
        return SIDE

    def encode(self, weight: torch.Tensor) -> Encoded:
        return encode_at_once(self, weight)

    def scales(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"row_scale": half(rms(weight))}


class PairPath(TileQuantizer):
    """`step_bits` new bits for two weights, 2^state_bits states; a symbol is the path of a tile."""

    step_bits: int
    state_bits: int

    @abstractmethod
    def state_values(self) -> torch.Tensor:
        """(2^L, 2) float32: what each state stands for, of a source of variance one."""

    @property
    def bits_per_weight(self) -> float:
        return self.step_bits / 2

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        return part_bytes(out_features, in_features, self.step_bits) + 2 * out_features

    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        return closest_states(normalized(columns, scales["row_scale"]), self.state_values(), self.step_bits)

    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        scale = scales["row_scale"]
        return scaled(path_values(symbols, self.state_values(), len(scale), width), scale)

    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        codes = path_codes(symbols, self.step_bits, self.state_bits)
        scale = fitted_scale(weight, path_values(symbols, self.state_values(), *weight.shape), metric)
        tensors = {"codes": codes, "row_scale": scale}
        return Encoded(out_features=weight.shape[0], in_features=weight.shape[1], tensors=tensors)

    def decode(self, encoded: Encoded) -> torch.Tensor:
        shape = (encoded.out_features, encoded.in_features)
        coded = decode_part(encoded.tensors["codes"], self.state_values(), self.step_bits, *shape)
        return scaled(coded, encoded.tensors["row_scale"])
