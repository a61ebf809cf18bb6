r"""Trellis-coded quantization (`tcq-1.5` .. `tcq-5`; Marcellin and Fischer, 1990, doi:10.1109/26.54985).

    w ~ s c(state),   states: the near-closest tail-biting path of every tile of w / rms   (quantizers.trellis.viterbi)

k = 2 x rate new bits for two weights, 2^L states; s, float16, is refitted per row by least squares.

`published-tcq-R` is the same at the published scale, a gain of 0.9 at every rate, and so at L = 16 the published code:
distortions are within 0.7 % of the published ones. `tcq-R` has the gain that suits its rate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from quantizers.base import Quantizer, Setting
from quantizers.codebooks import checked_codebook, fingerprint
from quantizers.trellis.part import checked_state_bits, seam_window
from quantizers.trellis.states import PUBLISHED_GAIN, gain, state_table, state_values, table_shape
from quantizers.trellis.tile_quantizer import PairPath
from quantizers.trellis.trained import trained_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Trellis(PairPath):
    """`tcq-R`: `step_bits` k = 2 R (3..10), `state_bits` L (max(8, k)..16); `table`: the codebook; `trained`, as
    `trained-tcq-R`: trained for the trellis where no table is given (quantizers.trellis.trained); `published`, as
    `published-tcq-R`: at the published gain."""

    step_bits: int
    state_bits: int = 16
    trained: bool = False
    published: bool = False
    table: torch.Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 3 <= self.step_bits <= 10:
            raise ValueError(f"tcq has 3 to 10 new bits for two weights, not {self.step_bits}")
        checked_state_bits(self.state_bits, self.step_bits)
        if self.trained and self.published:
            raise ValueError("trained=True, published=True: the published table is not trained for the trellis")

    @property
    def name(self) -> str:
        prefix = "trained-" * self.trained + "published-" * self.published
        return f"{prefix}tcq-{self.step_bits / 2:g}"

    @property
    def gain(self) -> float:
        """Standard deviation that the source is scaled to."""
        return PUBLISHED_GAIN if self.published else gain(self.codebook(), self.step_bits, self.state_bits)

    def settings(self) -> dict[str, Setting]:
        return {
            "quantizer": self.name,
            "state_bits": self.state_bits,
            "gain": self.gain,
            "window": seam_window(self.step_bits, self.state_bits),
            "codebook": fingerprint(self.codebook()),
        }

    def codebook(self) -> torch.Tensor:
        if self.table is not None:
            return self.table
        plain_or_trained = trained_table if self.trained else state_table
        return plain_or_trained(self.step_bits, self.state_bits)

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        shape = table_shape(self.step_bits, self.state_bits)
        return replace(self, table=checked_codebook(codebook, shape, self.name))

    def state_values(self) -> torch.Tensor:
        return state_values(self.codebook(), self.state_bits) / self.gain
