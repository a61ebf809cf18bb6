r"""`trellis-R`, the flagship family: a computed code, one weight a step, any rate from 1.25 to 6 bits in quarters.

    w ~ s value(state) / (147.8 gain),   states: the near-closest tail-biting path of every tile of w / rms

(quantizers.trellis.computed: the code; mixed_stream: its bits; mixed_viterbi and cuda/encode_trellis.cu: the search,
with equal codes). s, float16, is refitted per row by least squares. At its own number of state bits (16 up to 2.5 bits
and at 3.25, 4 and 4.25, else 17) it is 0.32 to 0.44 dB above the distortion-rate function up to 3 bits and at most 0.66
dB up to 5."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.codebooks import refuse_codebook
from quantizers.columns import Tensors
from quantizers.packing import checked_codes
from quantizers.trellis.closest import closest_steps
from quantizers.trellis.computed import CONSTANTS, DEVIATION, LARGEST, all_values, gain, native_state_bits
from quantizers.trellis.mixed_stream import (
    codes_to_states,
    from_steps,
    path_states,
    symbols_to_codes,
    tile_bytes,
    to_steps,
)
from quantizers.trellis.tile_quantizer import TileQuantizer
from quantizers.trellis.tiles import tile_grid
from quantizers.weights import fitted_scale, normalized, scaled

WINDOW = 128  # steps on either side of the seam: 96 costs 0.01 dB, 256 (half as fast again) gains 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedTrellis(TileQuantizer):
    """`quarters`: 4 x rate, 5..24; `state_bits` L, 8..18: None for the family's own, which the constants are for."""

    quarters: int
    state_bits: int | None = None

    def __post_init__(self) -> None:
        if self.quarters not in CONSTANTS:
            raise ValueError(f"trellis has 5 to 24 quarters of a bit a weight, not {self.quarters}")
        if self.state_bits is not None and not 8 <= self.state_bits <= 18:
            raise ValueError(f"the state_bits of trellis are 8 to 18, not {self.state_bits}")

    @property
    def name(self) -> str:
        return f"trellis-{self.quarters / 4:g}"

    @property
    def bits_per_weight(self) -> float:
        return self.quarters / 4

    @property
    def states(self) -> int:
        """L."""
        return self.state_bits or native_state_bits(self.quarters)

    @property
    def gain(self) -> float:
        """Standard deviation, over that of the code, which the source is scaled to."""
        return gain(self.quarters, self.states)

    def settings(self) -> dict[str, Setting]:
        return {
            "quantizer": self.name,
            "state_bits": self.states,
            "multiplier": CONSTANTS[self.quarters][0],
            "gain": self.gain,
            "window": WINDOW,
        }

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        rows, columns = tile_grid(out_features, in_features)
        return rows * columns * tile_bytes(self.quarters) + 2 * out_features

    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        source = to_steps(normalized(columns, scales["row_scale"]))
        points = (source * (DEVIATION * self.gain)).round_().clamp_(-LARGEST, LARGEST).to(torch.int16)
        multiplier = CONSTANTS[self.quarters][0]
        symbols = closest_steps(points, self.quarters, self.states, multiplier, window=WINDOW)
        return symbols.view(*tile_grid(*columns.shape), -1)

    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        scale = scales["row_scale"]
        return scaled(self._values(symbols, len(scale), width), scale)

    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        scale = fitted_scale(weight, self._values(symbols, *weight.shape), metric)
        tensors = {"codes": symbols_to_codes(symbols, self.quarters), "row_scale": scale}
        return Encoded(out_features=weight.shape[0], in_features=weight.shape[1], tensors=tensors)

    def decode(self, encoded: Encoded) -> torch.Tensor:
        codes, shape = encoded.tensors["codes"], (encoded.out_features, encoded.in_features)
        rows, columns = tile_grid(*shape)
        size = rows * columns * tile_bytes(self.quarters)
        values = self._decoded(codes_to_states(checked_codes(codes, size), self.quarters, self.states), *shape)
        return scaled(values, encoded.tensors["row_scale"])

    def codebook(self) -> torch.Tensor | None:
        return None

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        refuse_codebook(codebook, self.name)

    def _values(self, symbols: torch.Tensor, out_features: int, in_features: int) -> torch.Tensor:
        """What paths (rows of tiles, columns of tiles, 256) stand for, (out, in) float32 of variance near one."""
        states = path_states(symbols.reshape(-1, symbols.shape[-1]), self.quarters, self.states)
        return self._decoded(states, out_features, in_features)

    def _decoded(self, states: torch.Tensor, out_features: int, in_features: int) -> torch.Tensor:
        values = all_values(self.states, CONSTANTS[self.quarters][0]).to(states.device, torch.float32)
        return from_steps((values / (DEVIATION * self.gain))[states], out_features, in_features)
