r"""The weight itself, as float16: 16 bits, what all distortions are measured from (of a float32 weight, the
rounding error is at most 2^-11 of it)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.codebooks import refuse_codebook
from quantizers.weights import checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Float16(Quantizer):
    """Stores `weight`, (out, in) float16, un-rotated."""

    @property
    def name(self) -> str:
        return "fp16"

    @property
    def bits_per_weight(self) -> float:
        return 16.0

    @property
    def bytes_per_row(self) -> int:
        return 0

    @property
    def rotated(self) -> bool:
        return False

    def settings(self) -> dict[str, Setting]:
        return {"quantizer": self.name}

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        return 2 * out_features * in_features

    def encode(self, weight: torch.Tensor) -> Encoded:
        matrix = checked(weight)
        stored = matrix.to(torch.float16)
        if not bool(torch.isfinite(stored).all()):
            raise ValueError(f"a weight of {matrix.abs().max().item():.6g} exceeds float16 (at most 65504)")
        return Encoded(out_features=matrix.shape[0], in_features=matrix.shape[1], tensors={"weight": stored})

    def decode(self, encoded: Encoded) -> torch.Tensor:
        return encoded.tensors["weight"].to(torch.float32)

    def codebook(self) -> torch.Tensor | None:
        return None

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        refuse_codebook(codebook, self.name)
