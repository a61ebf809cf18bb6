r"""How Gaussian a weight is before and after its rotation, and how exact the rotation is.

kurtosis = mean over the rows of E w^4 / (E w^2)^2: 3 for Gaussian rows, larger with outlying channels (row by row
because the quantizers scale every row). Errors are relative Frobenius norms. Sums along a row accumulate in float32
(torch adds pairwise), sums over rows in float64."""

from __future__ import annotations

import math

import torch

from quantizers.rotation.transform import Rotation


def gaussianity(weight: torch.Tensor, rotation: Rotation) -> dict[str, float]:
    """One row of gaussianity.csv for a finite weight (out, in).

    Keys: kurtosis_before, kurtosis_after, norm_error = | |W R'| / |W| - 1 |, inverse_error = |(W R') R - W| / |W|.
    An all-zero weight has kurtosis 0 and errors 0."""
    weight = weight.to(torch.float32)
    rotated = rotation.rotate_weight(weight)
    norm, rotated_norm = frobenius(weight), frobenius(rotated)
    scale = norm if norm > 0.0 else 1.0
    return {
        "kurtosis_before": kurtosis(weight),
        "kurtosis_after": kurtosis(rotated),
        "norm_error": abs(rotated_norm - norm) / scale,
        "inverse_error": frobenius(rotation.unrotate_weight(rotated).sub_(weight)) / scale,
    }


def kurtosis(weight: torch.Tensor) -> float:
    """Mean of E w^4 / (E w^2)^2 over the rows that are not all zero; 0 where there is none."""
    weight = weight.to(torch.float32)
    peak = weight.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    squares = (weight / peak).square_()  # at most 1: fourth powers cannot overflow, and small rows do not vanish
    second = squares.mean(dim=1).double()
    fourth = squares.square_().mean(dim=1).double()
    rows = second > 0
    return float((fourth[rows] / second[rows].square()).mean()) if bool(rows.any()) else 0.0


def frobenius(weight: torch.Tensor) -> float:
    """|W|."""
    return math.sqrt(float(weight.square().sum(dim=1).double().sum()))
