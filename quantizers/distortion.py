r"""Distortion of a quantizer, D = |W - Q(W)|^2 / |W|^2, on a Gaussian source and on a given matrix.

The bound is the distortion-rate function of a Gaussian source, D(R) = 4^-R; `gap_db` = 10 log10(D 4^R). Rows are
independent, so the standard error of a ratio of sums follows from the residuals e_r - D w_r of the rows (Cochran, 1977,
section 6.4). Sums accumulate in float64.

A model's weights come in 16 bits, and `fp16` is what every distortion is measured from: the source is a standard
Gaussian rounded to float16 (which moves a value by 2^-11 of itself at most), so that the distortion of `fp16` is 0."""

from __future__ import annotations

import math

import torch

from quantizers.base import Quantizer
from quantizers.weights import checked

COLUMNS = 1024  # of the Gaussian matrix: the row scale costs 16/1024 bit a weight, as in a small model


def row_errors(quantizer: Quantizer, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error and energy of every row, (out,) float64 each."""
    matrix = checked(weight)
    decoded = quantizer.decode(quantizer.encode(matrix))
    error = torch.linalg.vector_norm(matrix - decoded, dim=1, dtype=torch.float64) ** 2
    energy = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64) ** 2
    return error, energy


def matrix_distortion(quantizer: Quantizer, weight: torch.Tensor) -> float:
    """Distortion on the weight (out, in) as given (rotated, where the quantizer expects it). 0 where all is zero."""
    error, energy = row_errors(quantizer, weight)
    total = energy.sum().item()
    return error.sum().item() / total if total > 0 else 0.0


def gaussian_distortion(quantizer: Quantizer, weights: int = 1 << 20, seed: int = 0) -> tuple[float, float]:
    """(distortion, standard error) on a matrix of `weights` standard Gaussian numbers in rows of 1024.

    ValueError where there are fewer than two rows."""
    rows = weights // COLUMNS
    if rows < 2:
        raise ValueError(f"a Gaussian source has at least {2 * COLUMNS} weights, not {weights}")
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(rows, COLUMNS, generator=generator).half()
    error, energy = row_errors(quantizer, source)
    distortion = (error.sum() / energy.sum()).item()
    residual = (error - distortion * energy).square().sum().item() * rows / (rows - 1)
    return distortion, math.sqrt(residual) / energy.sum().item()


def gap_db(distortion: float, bits_per_weight: float) -> float:
    """How far a distortion is above D(R), in dB; -inf where it is 0."""
    if distortion == 0:
        return -math.inf
    return 10 * math.log10(distortion) + 20 * bits_per_weight * math.log10(2)


def gap_error_db(distortion: float, standard_error: float) -> float:
    """The standard error of `gap_db`, in dB, to first order; 0 where the distortion is 0."""
    return 10 / math.log(10) * standard_error / distortion if distortion > 0 else 0.0
