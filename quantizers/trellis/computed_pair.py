r"""`trellis2-R`: a computed code with two weights a step, at 1 to 4 bits in halves; half the decoding of `trellis-R`.

    (c_0, c_1) = (7 b_0 + 5 b_1 - 5 b_3,  5 b_1 + 7 b_2 + 5 b_3),     b: the four signed bytes of m s mod 2^32

Four bytes along four directions of the plane, 45 degrees apart (7 ~ 5 sqrt 2): both values have the variance
99 (256^2 - 1) / 12, they are uncorrelated and nearer to round than (b_0 + b_1, b_2 + b_3), which is up to 0.1 dB worse.
A product with activations needs two bytes of integer matrix operands a weight instead of four: the activations take
the factors. It pays in accuracy (EXPERIMENTS.md): 0.38 dB to the bound at 1.5 bits, 0.49 at 2, 0.58 at 2.5.
The trellis, its bits and its search are those of `tcq`, with k = 2 R new bits a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from quantizers.base import Quantizer, Setting
from quantizers.codebooks import refuse_codebook
from quantizers.trellis.computed import signed_bytes
from quantizers.trellis.part import checked_state_bits, seam_window
from quantizers.trellis.tile_quantizer import PairPath

DEVIATION = (99 * (256**2 - 1) / 12) ** 0.5  # of each value: 735.3
DIRECTIONS = ((7, 0), (5, 5), (0, 7), (-5, 5))  # what each byte adds to the two values

# New bits a step: (multiplier, gain). The best of 28 random multipliers on 2^14 weights at L = 16, the best four of
# them on 2^16, then the gain in steps of 0.02.
CONSTANTS = {
    2: (0xF8829A45, 1.16),
    3: (0xE9AA5979, 1.03),
    4: (0x043B27B7, 0.96),
    5: (0x82D9D721, 0.94),
    6: (0xD0DBC74D, 0.91),
    7: (0x6A8C641B, 0.89),
    8: (0xEFE7F9F9, 0.84),
}


@cache
def state_values(state_bits: int, multiplier: int) -> torch.Tensor:
    """(2^L, 2) float32: the two integers that each state stands for."""
    values = torch.zeros(1 << state_bits, 2, dtype=torch.int64)
    for signed, direction in zip(signed_bytes(torch.arange(1 << state_bits), multiplier), DIRECTIONS, strict=True):
        values += signed[:, None] * torch.tensor(direction)
    return values.to(torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedPair(PairPath):
    """`trellis2-R`: `step_bits` k = 2 R (2..8), `state_bits` L (8..16)."""

    step_bits: int
    state_bits: int = 16

    def __post_init__(self) -> None:
        if self.step_bits not in CONSTANTS:
            raise ValueError(f"trellis2 has 2 to 8 new bits for two weights, not {self.step_bits}")
        checked_state_bits(self.state_bits, self.step_bits)

    @property
    def name(self) -> str:
        return f"trellis2-{self.step_bits / 2:g}"

    def settings(self) -> dict[str, Setting]:
        multiplier, gain = CONSTANTS[self.step_bits]
        return {
            "quantizer": self.name,
            "state_bits": self.state_bits,
            "multiplier": multiplier,
            "gain": gain,
            "window": seam_window(self.step_bits, self.state_bits),
        }

    def codebook(self) -> torch.Tensor | None:
        return None

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        refuse_codebook(codebook, self.name)

    def state_values(self) -> torch.Tensor:
        multiplier, gain = CONSTANTS[self.step_bits]
        return state_values(self.state_bits, multiplier) / (DEVIATION * gain)
