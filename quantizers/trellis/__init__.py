"""Trellis-coded quantization: `ComputedTrellis` (`trellis-R`), `ComputedPair` (`trellis2-R`, two weights a step), and
the published `Trellis` (`tcq-R`) and `HalfTrellis` (`half-tcq-R`, two neighbouring rates in one)."""

from quantizers.trellis.computed_pair import ComputedPair
from quantizers.trellis.computed_trellis import ComputedTrellis
from quantizers.trellis.half import HalfTrellis
from quantizers.trellis.tcq import Trellis

__all__ = ["ComputedPair", "ComputedTrellis", "HalfTrellis", "Trellis"]
