r"""Loss and KL divergence of one window from the logits of two models, a few positions at a time.

With reference logits z, candidate logits z', p = softmax(z) and Z = logsumexp over the vocabulary:

    loss  = mean_t Z'_t - z'_t[y_t]                            (y_t: the next token; the last position has none)
    KL(p || p') = mean_t  Z'_t - Z_t - <p_t, z'_t - z_t>       (every position)

p is computed once per window for all candidates. The difference z' - z is taken before the product: the terms of
the plain formula are some 20 nats, its float32 rounding would drown a divergence of 1e-5. A block of 16 positions x
49,152 words is 3 MB, small enough to stay in the cache over its five passes. Sums over positions are float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

POSITIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The reference model on one window: `logits` and `probabilities` (T, V), `log_sum` (T,)."""

    logits: torch.Tensor
    probabilities: torch.Tensor
    log_sum: torch.Tensor

    @classmethod
    def from_logits(cls, logits: torch.Tensor) -> Reference:
        """logits: (T, V), any floating type; held in float32. ValueError on NaN or Inf."""
        logits = logits.float()
        log_sum = torch.cat([torch.logsumexp(block, dim=-1) for block in torch.split(logits, POSITIONS)])
        if not torch.isfinite(log_sum).all():
            raise ValueError("the reference model gives logits that are not finite: its weights are damaged")
        probabilities = torch.empty_like(logits)
        for start in range(0, len(logits), POSITIONS):
            block = slice(start, start + POSITIONS)
            torch.sub(logits[block], log_sum[block, None], out=probabilities[block]).exp_()
        return cls(logits=logits, probabilities=probabilities, log_sum=log_sum)


def log_probability_and_divergence(
    reference: Reference, logits: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log p'(y_t), KL_t): the next token's log-probability (T-1,), the divergence at each position (T,); float64 nats.

    logits: (T, V) of the candidate; tokens: (T,) the window. A candidate whose logits are not finite gives NaN or Inf,
    which the caller sees in the mean: a broken candidate is a result, not an error."""
    length = len(tokens)
    difference = torch.empty(POSITIONS, logits.shape[-1], device=logits.device)
    log_sum = torch.empty(length, device=logits.device)
    divergence = torch.empty(length, dtype=torch.float64, device=logits.device)
    for start in range(0, length, POSITIONS):
        block = slice(start, min(start + POSITIONS, length))
        candidate = logits[block].float()
        log_sum[block] = torch.logsumexp(candidate, dim=-1)
        delta = torch.sub(candidate, reference.logits[block], out=difference[: len(candidate)])
        product = torch.linalg.vecdot(reference.probabilities[block], delta)
        divergence[block] = (log_sum[block].double() - reference.log_sum[block].double()) - product.double()
    chosen = logits[:-1].gather(-1, tokens[1:, None]).squeeze(-1)
    return chosen.double() - log_sum[:-1].double(), divergence
