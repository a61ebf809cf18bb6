r"""How Gaussian a weight is before and after its rotation, and how exact the rotation is.

kurtosis = E z^4 over all weights, z = w / rms(its row): 3 for Gaussian rows, larger with outlying channels (rows are
normalized because the quantizers scale every row). Errors are relative Frobenius norms, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizers.rotation.transform import Rotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussianity:
    """One row of gaussianity.csv."""

    kurtosis_before: float
    kurtosis_after: float
    norm_error: float  # | |W R'| / |W| - 1 |
    inverse_error: float  # |(W R') R - W| / |W|


def gaussianity(weight: torch.Tensor, rotation: Rotation) -> Gaussianity:
    """weight: (out, in), finite. An all-zero weight has kurtosis 0 and errors 0."""
    rotated = rotation.rotate_weight(weight)
    norm = float(torch.linalg.vector_norm(weight, dtype=torch.float64))
    scale = norm if norm > 0.0 else 1.0
    rotated_norm = float(torch.linalg.vector_norm(rotated, dtype=torch.float64))
    difference = rotation.unrotate_weight(rotated) - weight
    return Gaussianity(
        kurtosis_before=kurtosis(weight),
        kurtosis_after=kurtosis(rotated),
        norm_error=abs(rotated_norm - norm) / scale,
        inverse_error=float(torch.linalg.vector_norm(difference, dtype=torch.float64)) / scale,
    )


def kurtosis(weight: torch.Tensor) -> float:
    """Mean over the rows that are not all zero of E w^4 / (E w^2)^2, accumulated in float64; 0 where there is none."""
    squares = weight.to(torch.float32).square()
    second = squares.mean(dim=1, dtype=torch.float64)
    fourth = squares.square().mean(dim=1, dtype=torch.float64)
    rows = second > 0
    return float((fourth[rows] / second[rows].square()).mean()) if bool(rows.any()) else 0.0
