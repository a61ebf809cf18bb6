"""Means over windows, paired differences and their standard errors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from quantizers.evaluation import paired, perplexity, summarise


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(3, 1, size=6)
    columns = {"reference": difficulty, "a": difficulty + rng.normal(0.2, 0.01, 6), "b": difficulty + 0.1}
    rows = [
        {"plan": plan, "window": window, "tokens": 8, "loss": loss, "kl": rng.uniform() if plan != "reference" else 0.0}
        for plan, losses in columns.items()
        for window, loss in enumerate(losses)
    ]
    return pd.DataFrame(rows)


def test_paired_is_the_mean_and_error_of_differences_of_the_same_window() -> None:
    data = frame().sample(frac=1, random_state=0)  # the order of rows means nothing
    a = data[data.plan == "a"].sort_values("window").loss.to_numpy()
    b = data[data.plan == "b"].sort_values("window").loss.to_numpy()
    d = a - b
    error = math.sqrt(((d - d.mean()) ** 2).sum() / 5 / 6)
    assert paired(data, "a", "b", "loss") == pytest.approx((d.mean(), error))
    assert paired(data, "b", "a", "loss") == pytest.approx((-d.mean(), error))
    # the windows' own spread of 1 nat has cancelled
    assert error < 0.02
    assert paired(data, "a", "a") == (0.0, 0.0)


def test_summary_has_a_row_per_plan() -> None:
    data = frame()
    table = summarise(data).set_index("plan")
    assert list(table.index) == ["reference", "a", "b"]
    own = data[data.plan == "b"]
    assert table.loc["b", "kl"] == pytest.approx(own.kl.mean())
    assert table.loc["b", "kl_se"] == pytest.approx(own.kl.std() / math.sqrt(6))
    assert table.loc["b", "perplexity"] == pytest.approx(math.exp(own.loss.mean())) == perplexity(data, "b")
    assert table.loc["b", "loss_increase"] == pytest.approx(0.1)
    assert table.loc["b", "loss_increase_se"] == pytest.approx(0.0, abs=1e-12)
    assert table.loc["reference", "loss_increase"] == 0
    assert (table.windows == 6).all()
    assert (table.tokens == 48).all()


def test_one_window_has_no_error() -> None:
    data = frame()
    table = summarise(data[data.window == 0])
    assert table.kl_se.isna().all()
    assert table.kl.notna().all()


def test_bad_input() -> None:
    data = frame()
    with pytest.raises(ValueError, match="no plan 'c'"):
        paired(data, "a", "c")
    with pytest.raises(ValueError, match="no column 'speed'"):
        paired(data, "a", "b", "speed")
    with pytest.raises(ValueError, match="not measured on the same windows"):
        paired(data[(data.plan != "a") | (data.window > 0)], "a", "b")
