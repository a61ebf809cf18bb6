"""Figure 1a: NormalFloat with a scale a group, the format that most people use, priced by our own quantizer.

The tables have no such row and no such kernel, so the distortion is measured here on a Gaussian source (what a rotated
weight is) and the loss is sum sensitivity x distortion; its time is another library's and is not compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from experiments.paper.comparison import Material, Outcome, compared, require
from quantizers import make_quantizer
from quantizers.distortion import gaussian_distortion


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalFloat:
    """`quantizer` on `weights` Gaussian numbers."""

    quantizer: str
    published: Mapping[str, str | float]
    weights: int = 1 << 20
    seed: int = 0

    needs_tables: ClassVar[bool] = True

    def run(self, name: str, material: Material) -> Outcome:
        """Rate, distortion, loss and perplexity by the law."""
        tables = require(material)
        quantizer = make_quantizer(self.quantizer)
        distortion, _ = gaussian_distortion(quantizer, weights=self.weights, seed=self.seed)
        loss = float(tables.sensitivity[tables.allocatable].sum()) * distortion
        numbers = {
            "bits_per_weight": quantizer.bits_per_weight,
            "distortion": distortion,
            "objective": loss,
            "perplexity": material.perplexity(loss),
        }
        return Outcome(
            comparisons=compared(
                self.quantizer, numbers, self.published, note="rotated here; published without a rotation"
            )
        )
