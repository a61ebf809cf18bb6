r"""Means over windows and their standard errors.

A window is one observation x_i: the mean of n windows has the standard error sd(x) / sqrt(n), sd with n - 1. Two plans
are compared on the *difference* x_i^a - x_i^b of the same window, whose spread is far below that of either: windows
differ in difficulty by more than plans do. Perplexity is exp(mean loss)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quantizers.evaluation.windows import REFERENCE


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and its standard error, NaN for a single value."""
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(np.mean(values)), error


def paired(frame: pd.DataFrame, plan_a: str, plan_b: str, column: str = "kl") -> tuple[float, float]:
    """(mean of a - b, its standard error) over the windows of `evaluate`'s frame. ValueError where the two plans were
    not measured on the same windows, or a plan or column is unknown."""
    if column not in frame.columns:
        raise ValueError(f"no column {column!r} among {list(frame.columns)}")
    values = [frame[frame.plan == plan].set_index("window")[column] for plan in (plan_a, plan_b)]
    for plan, series in zip((plan_a, plan_b), values, strict=True):
        if series.empty:
            raise ValueError(f"no plan {plan!r} among {sorted(set(frame.plan))}")
    if sorted(values[0].index) != sorted(values[1].index):
        raise ValueError(f"plans {plan_a!r} and {plan_b!r} were not measured on the same windows")
    difference = values[0] - values[1].reindex(values[0].index)
    return mean_and_error(difference.to_numpy(dtype=np.float64))


def perplexity(frame: pd.DataFrame, plan: str) -> float:
    """exp(mean loss) of one plan."""
    return math.exp(float(frame[frame.plan == plan].loss.mean()))


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per plan, in the order of the frame: plan, windows, tokens, loss, perplexity, kl, kl_se, loss_increase,
    loss_increase_se (nats/token; the increase is paired with the reference)."""
    rows = []
    for plan in dict.fromkeys(frame.plan):
        own = frame[frame.plan == plan]
        kl, kl_se = mean_and_error(own.kl.to_numpy(dtype=np.float64))
        increase, increase_se = paired(frame, plan, REFERENCE, "loss")
        rows.append(
            {
                "plan": plan,
                "windows": len(own),
                "tokens": int(own.tokens.sum()),
                "loss": float(own.loss.mean()),
                "perplexity": perplexity(frame, plan),
                "kl": kl,
                "kl_se": kl_se,
                "loss_increase": increase,
                "loss_increase_se": increase_se,
            }
        )
    return pd.DataFrame(rows)
