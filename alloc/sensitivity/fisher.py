r"""Sensitivity from squared gradients of the model's own predictions.

Let W' = W + E with independent zero-mean entries of variance t |w_i|^2 / in (row i), as a quantizer of distortion t
leaves after a random rotation of the input. To second order (Martens, 2020, JMLR 21(146), the Fisher metric of KL)

    KL(p || p') = 1/2 E_y <d log p(y) / dW, E>^2 = a t,     a = 1/2 sum_i |w_i|^2 / in  sum_j F_ij,

F_ij = E_y (d log p(y) / dW_ij)^2 with y drawn from the model, not from the text. A rotation of the input changes
neither |w_i| nor the row sums of F, so that no rotation is needed. The labels of different positions are drawn
independently, so their scores are uncorrelated, and one backward pass over T tokens, G = sum_t d log p(y_t) / dW, is
an unbiased draw a = 1 / (2 T) sum_i |w_i|^2 / in |G_i|^2. In place of the one-hot draw y - p, any v with covariance
diag(p) - p p' on the logits has the same mean; v = sqrt(p) * z - p <sqrt(p), z> with signs z has the lighter tails.

Cost: three forwards a draw; the error is sd / sqrt(draws), sd about 20 % of a layer's value at 512 tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import nn

from alloc.sensitivity.gradients import squared_row_gradients
from alloc.sensitivity.table import Progress, Slots, require_slots, require_windows, sensitivity_table


def score(probabilities: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """v = sqrt(p) z - p <sqrt(p), z>, (..., V): mean 0 and covariance diag(p) - p p' over random signs z = +-1."""
    v = probabilities.sqrt().mul_(signs)
    return v.sub_(probabilities * v.sum(dim=-1, keepdim=True))


def random_score(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A draw of `score` for the model's predictions, shaped and typed as the logits (..., V)."""
    p = torch.softmax(logits.detach().float(), dim=-1)
    signs = torch.randint(0, 2, p.shape, generator=generator, dtype=torch.int8, device=generator.device).mul_(2).sub_(1)
    return score(p, signs.to(p.device)).to(logits.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fisher:
    """`draws` backward passes, one on each of the first windows, cut to `tokens`.

    In a short window the first tokens, which all others attend to, weigh more: on SmolLM2 the sum over layers is 43
    with 256 tokens, 38 with 512, 35 with 1024. But long windows are few in the same time, and layers differ between
    texts by more than between scores (so a second score on the same window is the worse buy, too): 12 windows of 512
    are as good as 6 of 1024 in two thirds of the memory, and `Calibrated` corrects the sum."""

    name: ClassVar[str] = "fisher"
    draws: int = 12
    tokens: int = 512

    def __post_init__(self) -> None:
        if self.draws < 2 or self.tokens < 2:
            raise ValueError(f"fisher needs draws >= 2 and tokens >= 2, not {self}")

    def measure(
        self,
        model: nn.Module,
        slots: Slots,
        windows: torch.Tensor,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """windows: (count, T) token ids. ValueError where there are fewer than `draws`."""
        require_slots(slots)
        require_windows(windows)
        draws = self.per_draw(model, slots, windows, generator=generator, progress=progress)
        error = draws.std(dim=0) / math.sqrt(len(draws))
        return sensitivity_table(slots, draws.mean(dim=0).tolist(), error.tolist(), self.name)

    def per_draw(
        self,
        model: nn.Module,
        slots: Slots,
        windows: torch.Tensor,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """(draws, layers) float64: the unbiased draws themselves."""
        if len(windows) < self.draws:
            raise ValueError(f"fisher takes {self.draws} draws on windows of their own, but there are {len(windows)}")
        text = windows[: self.draws, : self.tokens]
        device = next(model.parameters()).device
        row_energy = {  # |w_i|^2 / in
            name: torch.linalg.vecdot(slot.weight.float(), slot.weight.float()) / slot.weight.shape[1]
            for name, slot in slots.items()
        }
        column = {name: index for index, name in enumerate(slots)}
        draws = torch.zeros(self.draws, len(slots), dtype=torch.float64)
        done = 0

        def reduce(name: str, squares: torch.Tensor) -> None:
            draws[done, column[name]] = torch.dot(row_energy[name], squares).item() / (2 * text.shape[1])

        with squared_row_gradients(model, slots, reduce):
            for window in text:
                logits = model(input_ids=window[None].to(device), use_cache=False).logits
                logits.backward(random_score(logits, generator))
                done += 1
                if progress is not None:
                    progress(done, self.draws, self.name)
        return draws
