"""Evaluate models on the same windows of text: the reference's logits are computed once per window.

Windows do not overlap and each starts afresh, so that the stride is the window: loss is the mean over its T - 1 next
tokens, KL the mean over its T positions. Time is the models' own: the comparison costs a few percent of a forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch import nn

from quantizers.evaluation.divergence import Reference, log_probability_and_divergence

Progress = Callable[[int, int, str], None]
REFERENCE = "reference"


@torch.no_grad()
def window_logits(model: nn.Module, window: torch.Tensor) -> torch.Tensor:
    """(T, V) logits of one window (T,), computed on the device of the model and left there."""
    device = next(model.parameters()).device
    return model(input_ids=window[None].to(device), use_cache=False).logits[0]


@torch.no_grad()
def evaluate(
    reference: nn.Module,
    candidates: Mapping[str, nn.Module],
    windows: torch.Tensor,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Rows plan, window, tokens, loss, kl (nats/token), one per model and window; the reference is the plan
    `reference` with kl 0.

    windows: (count, T) token ids, T >= 2. ValueError on another shape, on a candidate of that name, and on a reference
    whose logits are not finite."""
    if windows.dim() != 2 or windows.shape[1] < 2 or len(windows) == 0:
        raise ValueError(f"windows must be (count >= 1, tokens >= 2), not {tuple(windows.shape)}")
    if REFERENCE in candidates:
        raise ValueError(f"no plan can be named {REFERENCE!r}: that row is the unquantized model")
    rows: list[dict[str, str | int | float]] = []
    total = len(windows) * (1 + len(candidates))
    for index, window in enumerate(windows):
        base = Reference.from_logits(window_logits(reference, window))
        tokens = window.to(base.logits.device)
        for plan in (REFERENCE, *candidates):
            logits = base.logits if plan == REFERENCE else window_logits(candidates[plan], window).to(tokens.device)
            log_probability, divergence = log_probability_and_divergence(base, logits, tokens)
            rows.append(
                {
                    "plan": plan,
                    "window": index,
                    "tokens": len(window),
                    "loss": -log_probability.mean().item(),
                    "kl": divergence.mean().item(),
                }
            )
            if progress is not None:
                progress(len(rows), total, plan)
    return pd.DataFrame(rows)
