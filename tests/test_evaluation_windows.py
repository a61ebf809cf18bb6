"""Loss and KL on windows against their definitions in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from quantizers.evaluation import Reference, evaluate, log_probability_and_divergence

VOCABULARY = 37


class Table(nn.Module):
    """A model whose logits at a position are a row of a table, chosen by the token there."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table, requires_grad=False)
        self.calls = 0

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        self.calls += 1
        return SimpleNamespace(logits=self.table[input_ids])


def table(seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale


def windows(count: int, length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("length", [2, 16, 17, 33])  # around the block of 16 positions
@pytest.mark.parametrize("distance", [1e-3, 1.0])
def test_rows_are_the_definition(length: int, distance: float) -> None:
    """Divergences of 1e-6 too, which the plain formula in float32 drowns in rounding."""
    first, second = table(0), table(0) + distance * table(1)
    text = windows(3, length)
    frame = evaluate(Table(first), {"a": Table(second)}, text)
    assert list(frame.columns) == ["plan", "window", "tokens", "loss", "kl"]
    assert list(frame.plan) == ["reference", "a"] * 3
    assert set(frame.tokens) == {length}
    for row in frame.itertuples():
        logits = (second if row.plan == "a" else first).double()[text[row.window]]
        clean = first.double()[text[row.window]].log_softmax(dim=-1)
        loss = nn.functional.cross_entropy(logits[:-1], text[row.window, 1:])
        kl = (clean.exp() * (clean - logits.log_softmax(dim=-1))).sum(dim=-1).mean()
        assert row.loss == pytest.approx(loss.item(), rel=1e-6)
        assert row.kl == pytest.approx(kl.item(), rel=1e-4, abs=2e-7)


def test_a_model_is_at_no_distance_from_itself() -> None:
    frame = evaluate(Table(table(0)), {"same": Table(table(0))}, windows(4, 20))
    assert (frame.kl == 0).all()
    losses = frame.pivot(index="window", columns="plan", values="loss")
    assert (losses["same"] == losses["reference"]).all()


def test_the_reference_runs_once_per_window() -> None:
    reference = Table(table(0))
    candidates = {name: Table(table(seed)) for seed, name in enumerate("abc")}
    progress: list[tuple[int, int, str]] = []
    evaluate(reference, candidates, windows(5, 8), progress=lambda *step: progress.append(step))
    assert [model.calls for model in (reference, *candidates.values())] == [5, 5, 5, 5]
    assert progress[-1] == (20, 20, "c")
    assert [done for done, _, _ in progress] == list(range(1, 21))


def test_large_logits_neither_overflow_nor_lose_the_divergence() -> None:
    logits = torch.tensor([[1000.0, 0.0, -1000.0], [500.0, 500.0, 0.0]])
    changed = torch.tensor([[0.0, 1000.0, 0.0], [500.0, 499.0, 0.0]])
    _, divergence = log_probability_and_divergence(Reference.from_logits(logits), changed, torch.tensor([0, 1]))
    clean = logits.double().log_softmax(dim=-1)
    expected = (clean.exp() * (clean - changed.double().log_softmax(dim=-1))).sum(dim=-1)
    torch.testing.assert_close(divergence, expected, rtol=1e-6, atol=1e-6)


def test_half_precision_candidates_are_compared_in_float32() -> None:
    logits = table(0)[windows(1, 12)[0]]
    reference = Reference.from_logits(logits)
    rounded = logits.bfloat16()
    found = log_probability_and_divergence(reference, rounded, windows(1, 12)[0])
    expected = log_probability_and_divergence(reference, rounded.float(), windows(1, 12)[0])
    torch.testing.assert_close(found, expected)


def test_bad_input() -> None:
    good = Table(table(0))
    with pytest.raises(ValueError, match="no plan can be named"):
        evaluate(good, {"reference": good}, windows(1, 4))
    for shape in ((4,), (0, 4), (2, 1)):
        with pytest.raises(ValueError, match="windows must be"):
            evaluate(good, {}, torch.zeros(shape, dtype=torch.int64))
    damaged = table(0)
    damaged[:, 3] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        evaluate(Table(damaged), {}, windows(1, 4))
    assert evaluate(good, {"damaged": Table(damaged)}, windows(1, 4)).kl.isna().tolist() == [False, True]
