r"""Loss and KL divergence of one window from the logits of two models, a few positions at a time.

With reference logits z, candidate logits z', p = softmax(z) and Z = logsumexp over the vocabulary:

    loss  = mean_t Z'_t - z'_t[y_t]                            (y_t: the next token; the last position has none)
    KL(p || p') = mean_t  Z'_t - Z_t - <p_t, z'_t - z_t>       (every position)

p is computed once per window for all candidates. The difference z' - z is taken before the product, and the
logsumexps are subtracted in float64: terms of some 20 nats in float32 would drown a divergence of 1e-5. A block of
16 positions x 49,152 words is 3 MB, small enough to stay in the cache over its passes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

POSITIONS = 16


def exponentials(logits: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write exp(z - max z), (T, V), into `out`; return the logsumexp (T,) in float64: a sum of some 20 nats would lose
    in float32 the digits that a divergence is made of."""
    peak = logits.amax(dim=-1)
    torch.sub(logits, peak[:, None], out=out).exp_()
    return peak.double() + out.sum(dim=-1).double().log()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The reference model on one window: `logits` and `probabilities` (T, V) float32, `log_sum` (T,) float64."""

    logits: torch.Tensor
    probabilities: torch.Tensor
    log_sum: torch.Tensor

    @classmethod
    def from_logits(cls, logits: torch.Tensor) -> Reference:
        """logits: (T, V), any floating type; held in float32. ValueError on NaN or Inf."""
        logits = logits.float()
        probabilities = torch.empty_like(logits)
        log_sum = torch.empty(len(logits), dtype=torch.float64, device=logits.device)
        for block in blocks(len(logits)):
            log_sum[block] = exponentials(logits[block], probabilities[block])
            probabilities[block].div_(probabilities[block].sum(dim=-1, keepdim=True))
        if not torch.isfinite(log_sum).all():
            raise ValueError("the reference model gives logits that are not finite: its weights are damaged")
        return cls(logits=logits, probabilities=probabilities, log_sum=log_sum)


def blocks(length: int) -> list[slice]:
    """The positions 0..length-1, POSITIONS at a time."""
    return [slice(start, min(start + POSITIONS, length)) for start in range(0, length, POSITIONS)]


def log_probability_and_divergence(
    reference: Reference, logits: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log p'(y_t), KL_t): the next token's log-probability (T-1,), the divergence at each position (T,); float64 nats.

    logits: (T, V) of the candidate; tokens: (T,) the window. A candidate whose logits are not finite gives NaN or Inf,
    which the caller sees in the mean: a broken candidate is a result, not an error."""
    buffer = torch.empty(POSITIONS, logits.shape[-1], device=logits.device)
    log_sum = torch.empty(len(tokens), dtype=torch.float64, device=logits.device)
    divergence = torch.empty_like(log_sum)
    for block in blocks(len(tokens)):
        candidate = logits[block].float()
        own = buffer[: len(candidate)]
        log_sum[block] = exponentials(candidate, own)
        torch.sub(candidate, reference.logits[block], out=own)
        product = torch.linalg.vecdot(reference.probabilities[block], own)
        divergence[block] = log_sum[block] - reference.log_sum[block] - product.double()
    chosen = logits[:-1].gather(-1, tokens[1:, None]).squeeze(-1)
    return chosen.double() - log_sum[:-1], divergence
