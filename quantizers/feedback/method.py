r"""What a method of error feedback is: weights, a quantizer and a second moment -> codes.

Plain encoding makes |E|^2 small, E = W - W_hat. The outputs of a layer change by E x, so that what should be small is

    E |E x|^2 = tr(E H E'),     H = E[x x']  (in, in), the second moment of the layer's inputs, in the weight's basis.

Only the codes differ: what is stored, its size and how it is decoded are those of plain encoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.columns import ColumnQuantizer


class Feedback(ABC):
    """A method. Implementations are frozen dataclasses, their settings. `name` is its name on the command line;
    `needs_moments`: whether it reads H."""

    name: ClassVar[str]
    needs_moments: ClassVar[bool]

    @abstractmethod
    def settings(self) -> dict[str, Setting]:
        """All that decides the codes besides weight, quantizer and H, JSON-able."""

    @abstractmethod
    def encode(self, quantizer: Quantizer, weight: torch.Tensor, moment: torch.Tensor) -> Encoded:
        """Codes of weight (out, in) for inputs of the second moment H (in, in), any positive scale.

        ValueError for a quantizer that cannot code column by column and for an H that is not symmetric, not finite, of
        another shape or not positive definite after damping."""


def require_columns(quantizer: Quantizer) -> ColumnQuantizer:
    """The quantizer; ValueError where it lacks the capability."""
    if not isinstance(quantizer, ColumnQuantizer):
        raise ValueError(
            f"{quantizer.name} cannot code column by column, which error feedback needs; use feedback=none"
        )
    return quantizer


def weighted_energy(matrix: torch.Tensor, moment: torch.Tensor) -> float:
    """tr(M H M') of M (out, in), H (in, in); products in float64."""
    M = matrix.double()
    return float(((M @ moment.double()) * M).sum())
