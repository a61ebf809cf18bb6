r"""QuantEase: coordinate descent on tr(E H E') over the codes (Behdin et al., 2023, arXiv 2309.01885).

Given all other columns, the best real values of the block k, without a quantizer, are

    T_k = W_k + sum_(j != k) (W_j - W_hat_j) H_jk H_kk^-1,       W_hat_k <- Q(T_k).

For scalars the nearest to T_k is the best; for a block, whose H_kk is no multiple of the identity, it need not be. So
symbols change only where the error falls: in a unit of symbols (a row, 16 rows of a trellis), where tr(N H_kk N') with
N = T_k - W_hat_k is less than with the old W_hat_k. From the codes of LDLQ on the error never rises. `sweeps` visits
of every block; each costs the quantizer's search and out x in^2 multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.columns import ColumnQuantizer, Tensors
from quantizers.feedback.factor import block_feedback, damped
from quantizers.feedback.ldlq import PANEL, feed_back
from quantizers.feedback.method import Feedback, require_columns
from quantizers.weights import checked


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantEase(Feedback):
    """`feedback=quantease`. `damping`: of the mean of diag H; `sweeps` over all columns, after one of LDLQ."""

    damping: float = 0.01
    sweeps: int = 3

    name: ClassVar[str] = "quantease"
    needs_moments: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.damping >= 0 or self.sweeps < 1:
            raise ValueError(f"damping is at least 0 and sweeps at least 1, not {self.damping} and {self.sweeps}")

    def settings(self) -> dict[str, Setting]:
        return {"feedback": self.name, "damping": self.damping, "sweeps": self.sweeps}

    def encode(self, quantizer: Quantizer, weight: torch.Tensor, moment: torch.Tensor) -> Encoded:
        columns = require_columns(quantizer)
        matrix = checked(weight)
        H = damped(moment, self.damping, matrix.shape[1])
        A = block_feedback(H, columns.column_block, self.damping).float()
        scales = columns.scales(matrix)
        symbols = feed_back(columns, matrix, scales, A)
        for _ in range(self.sweeps):
            before, symbols = symbols, sweep(columns, matrix, scales, symbols, H)
            if torch.equal(before, symbols):
                break
        return columns.assemble(matrix, symbols, scales, H)


def sweep(
    quantizer: ColumnQuantizer, matrix: torch.Tensor, scales: Tensors, symbols: torch.Tensor, H: torch.Tensor
) -> torch.Tensor:
    """Every block once, left to right: symbols -> symbols, of no larger tr(E H E') at these scales. H: float64."""
    in_features = matrix.shape[1]
    block = quantizer.column_block
    panel = max(PANEL // block, 1) * block
    error = matrix - quantizer.decode_columns(symbols, scales, 0, in_features)
    metric = H.float()
    found = symbols.clone()
    for start in range(0, in_features, panel):
        stop = min(start + panel, in_features)
        pull = error @ metric[:, start:stop]  # E H of the panel, kept up to date below
        for first in range(start, stop, block):
            end = min(first + block, stop)
            own = metric[first:end, first:end]
            inside = slice(first - start, end - start)
            before = error[:, first:end].clone()
            others = torch.linalg.solve(own, pull[:, inside] - before @ own, left=False)
            target = (matrix[:, first:end] + others).contiguous()
            unit = quantizer.code_columns(target, scales, first)
            decoded = quantizer.decode_columns(unit, scales, first, end - first)
            better = improved(target - decoded, before + others, own, quantizer.row_block)
            places = slice(first // block, first // block + unit.shape[1])
            found[:, places] = torch.where(better.view(-1, *[1] * (unit.dim() - 1)), unit, found[:, places])
            rows = better.repeat_interleave(quantizer.row_block)[: len(matrix), None]
            change = torch.where(rows, matrix[:, first:end] - decoded - before, 0.0)
            error[:, first:end] += change
            pull += change @ metric[first:end, start:stop]
    return found


def improved(new: torch.Tensor, old: torch.Tensor, own: torch.Tensor, rows: int) -> torch.Tensor:
    """(units,) bool: whether tr(N H_kk N') is less with the new N (out, block), summed over the rows of each unit."""
    gain = ((old @ own) * old - (new @ own) * new).sum(dim=1)
    return torch.nn.functional.pad(gain, (0, -len(gain) % rows)).view(-1, rows).sum(dim=1) > 0
