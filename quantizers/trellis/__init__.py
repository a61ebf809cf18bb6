"""Trellis-coded quantization: `Trellis` (`tcq-R`) and `HalfTrellis` (`half-tcq-R`), two neighbouring rates in one."""

from quantizers.trellis.half import HalfTrellis
from quantizers.trellis.tcq import Trellis

__all__ = ["HalfTrellis", "Trellis"]
