r"""What all quantizers do to a weight before and after its codes: check it, scale its rows, fit the scales.

A row w is coded as s c with a float16 scale s, first the root mean square of the row (over a gain), and, once the codes
c are known, the least-squares scale s = <w, c> / <c, c>. Sums accumulate in float64."""

from __future__ import annotations

import torch


def checked(weight: torch.Tensor) -> torch.Tensor:
    """The weight as a contiguous float32 CPU matrix; ValueError unless it is 2-D, not empty, floating and finite."""
    if weight.dim() != 2 or weight.numel() == 0 or not weight.is_floating_point():
        raise ValueError(f"a weight is a 2-D floating-point matrix, not {weight.dtype} of shape {tuple(weight.shape)}")
    matrix = weight.detach().to("cpu", torch.float32).contiguous()
    finite = torch.isfinite(matrix)
    if not bool(finite.all()):
        row, column = torch.nonzero(~finite)[0].tolist()
        raise ValueError(f"weight[{row}, {column}] = {matrix[row, column].item()}; all weights must be finite")
    return matrix


def half(scale: torch.Tensor) -> torch.Tensor:
    """Scales as float16; ValueError where one is out of its range."""
    rounded = scale.to(torch.float16)
    if not bool(torch.isfinite(rounded).all()):
        raise ValueError(f"a scale of {scale.abs().max().item():.3g} exceeds float16 (at most 65504)")
    return rounded


def rms(matrix: torch.Tensor) -> torch.Tensor:
    """Root mean square of every row, (out,) float64."""
    return torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64) / matrix.shape[1] ** 0.5


def inverted(scale: torch.Tensor) -> torch.Tensor:
    """1 / scale in float64, 0 where the scale is 0."""
    return torch.where(scale == 0, 0.0, 1.0 / scale.double())


def normalized(matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rows over their float16 scales; a row whose scale is 0 (all zero, or below 3e-8) becomes zero."""
    return matrix * inverted(scale).float()[:, None]


def scaled(coded: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rows (out, in) float32 times their float16 scales (out,)."""
    return coded * scale.to(torch.float32)[:, None]


def fitted_scale(matrix: torch.Tensor, coded: torch.Tensor, metric: torch.Tensor | None = None) -> torch.Tensor:
    """The least-squares scale of every row, (out,) float16. The error is quadratic: rounding keeps the nearest.

    Under a metric H (in, in), symmetric: the scale s that minimizes (w - s c) H (w - s c)', <w, H c> / <c, H c>."""
    H = None if metric is None else metric.double()
    cross = torch.empty(matrix.shape[0], dtype=torch.float64)
    energy = torch.empty_like(cross)
    rows = max(1, (1 << 22) // matrix.shape[1])  # bounds the float64 copies to 32 MiB
    for i in range(0, matrix.shape[0], rows):
        c = coded[i : i + rows].double()
        Hc = c if H is None else c @ H
        cross[i : i + rows] = (matrix[i : i + rows].double() * Hc).sum(1)
        energy[i : i + rows] = (c * Hc).sum(1)
    return half(torch.where(energy > 0, cross / energy.clamp_min(1e-300), 0.0))
