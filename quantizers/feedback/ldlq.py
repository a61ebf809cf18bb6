r"""Block LDLQ: each block of columns takes in the errors of those before it (QuIP, Chee et al., 2023, arXiv 2307.13304;
in blocks: QuIP#, Tseng et al., 2024, arXiv 2402.04396, section 4.1).

    T_k = W_k + sum_(j<k) (W_j - W_hat_j) A_jk,     W_hat_k = Q(T_k),     A = U - I,   H + damping = U D U'.

Then (W - W_hat) U = T - W_hat =: N, the quantizer's own errors, and tr(E H E') = sum_k tr(N_k D_k N_k'): the product of
det D_k is det H, while plain encoding pays H's diagonal. The block is the quantizer's (16 columns for trellis tiles, 1
for scalars). Errors run from left to right, which leaves the small D_k, given all that follows, on the left, where
half-tcq has its lower rate.

H = I gives A = 0, T = W and plain encoding, bit for bit. Scales are those of plain encoding, and row scales are
refitted under H at the end. T is wider than W, by 5 % at 2.5 bits and 17 % at 1.5 (tcq, eigenvalues of H over three
decades); a scale made for T would gain 2 % of the error at 1.5 bits, nothing from 2.5 on.

Cost: the quantizer's search and out x in^2 multiply-adds, in float32, in panels so that most are matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.columns import ColumnQuantizer, Tensors
from quantizers.feedback.factor import block_feedback, damped
from quantizers.feedback.method import Feedback, require_columns
from quantizers.weights import checked

PANEL = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Ldlq(Feedback):
    """`feedback=ldlq`. `damping`: of the mean of diag H."""

    damping: float = 0.01

    name: ClassVar[str] = "ldlq"
    needs_moments: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise ValueError(f"damping is at least 0, not {self.damping}")

    def settings(self) -> dict[str, Setting]:
        return {"feedback": self.name, "damping": self.damping}

    def encode(self, quantizer: Quantizer, weight: torch.Tensor, moment: torch.Tensor) -> Encoded:
        columns = require_columns(quantizer)
        matrix = checked(weight)
        H = damped(moment, self.damping, matrix.shape[1])
        A = block_feedback(H, columns.column_block, self.damping).float()
        scales = columns.scales(matrix)
        return columns.assemble(matrix, feed_back(columns, matrix, scales, A), scales, H)


def feed_back(quantizer: ColumnQuantizer, matrix: torch.Tensor, scales: Tensors, A: torch.Tensor) -> torch.Tensor:
    """The symbols of one run from left to right at fixed scales. A: (in, in) float32, strictly upper in blocks."""
    in_features = matrix.shape[1]
    block = quantizer.column_block
    panel = max(PANEL // block, 1) * block
    error = torch.zeros_like(matrix)
    targets = matrix.clone()
    symbols = []
    for start in range(0, in_features, panel):
        stop = min(start + panel, in_features)
        targets[:, start:stop] += error[:, :start] @ A[:start, start:stop]
        for first in range(start, stop, block):
            end = min(first + block, stop)
            targets[:, first:end] += error[:, start:first] @ A[start:first, first:end]
            target = targets[:, first:end].contiguous()
            found = quantizer.code_columns(target, scales, first)
            error[:, first:end] = matrix[:, first:end] - quantizer.decode_columns(found, scales, first, end - first)
            symbols.append(found)
    return torch.cat(symbols, dim=1)
