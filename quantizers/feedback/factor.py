r"""The second moment made safe, and its block factorization H + damping = U D U'.

    U   unit upper triangular in blocks of b columns (identity blocks on the diagonal);   D   block diagonal

Damping adds `damping` times the mean of diag H to the diagonal: H from few tokens has a null space, in which errors
would cost nothing. From the Cholesky factor R (upper, H = R R') follows U = R diag(R_kk)^-1. float64; in^3 / 3
steps."""

from __future__ import annotations

import torch


def damped(moment: torch.Tensor, damping: float, in_features: int) -> torch.Tensor:
    """H / mean(diag H) + damping I, float64. ValueError unless H is (in, in), finite, symmetric, its trace positive."""
    if moment.shape != (in_features, in_features) or not moment.is_floating_point():
        raise ValueError(
            f"the second moment of {in_features} inputs is ({in_features}, {in_features}) floating, "
            f"not {tuple(moment.shape)} {moment.dtype}"
        )
    H = moment.double()
    if not bool(torch.isfinite(H).all()):
        raise ValueError(f"the second moment holds {int((~torch.isfinite(H)).sum())} NaN or infinite values")
    largest = float(H.abs().max())
    asymmetry = float((H - H.T).abs().max())
    if asymmetry > 1e-5 * largest:  # float32 storage leaves 1e-7
        raise ValueError(f"the second moment is not symmetric: H - H' reaches {asymmetry:.3g}, H {largest:.3g}")
    mean = float(H.diagonal().mean())
    if mean <= 0:
        raise ValueError(f"the second moment has the mean {mean:.3g} on its diagonal, not a positive one")
    H = (H + H.T) / (2 * mean)
    H.diagonal().add_(damping)
    return H


def upper_cholesky(H: torch.Tensor, damping: float) -> torch.Tensor:
    """R, upper triangular with H = R R'. ValueError, with the least eigenvalue, where H is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(H.flip(0, 1))
    if int(failed) != 0:
        least = float(torch.linalg.eigvalsh(H)[0]) - damping
        raise ValueError(
            f"the second moment is not positive definite: over the mean of its diagonal its least eigenvalue is "
            f"{least:.3g}; damping is {damping:g}, more than {max(0.0, -least):.3g} is needed"
        )
    return factor.flip(0, 1)


def block_feedback(H: torch.Tensor, block: int, damping: float) -> torch.Tensor:
    """U - I (in, in), strictly upper in blocks of `block` columns: what a column takes from the errors before it."""
    R = upper_cholesky(H, damping)
    n = len(R)
    A = torch.zeros_like(R)
    for first in range(0, n, block):
        end = min(first + block, n)
        if first > 0:
            own = R[first:end, first:end]
            A[:first, first:end] = torch.linalg.solve_triangular(own, R[:first, first:end], upper=True, left=False)
    return A
