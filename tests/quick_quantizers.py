"""Quantizers by name for tests of what holds with any table and any number of states."""

from __future__ import annotations

import torch

from quantizers import Quantizer, make_quantizer
from quantizers.vector import Vector


def quick(name: str) -> Quantizer:
    """The quantizer at L = 10, with a stand-in for the vector codebooks that take seconds to compute."""
    quantizer = make_quantizer(name, state_bits=10)
    if isinstance(quantizer, Vector) and quantizer.index_bits > 8:
        points = torch.randn(1 << quantizer.index_bits, 2, generator=torch.Generator().manual_seed(0)).half()
        return quantizer.with_codebook(points[points[:, 0].argsort()])
    return quantizer
