"""Codebooks trained with the search in the loop: every round helps, on the training source and on a fresh one."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch

from quantizers import make_quantizer
from quantizers.distortion import gaussian_distortion
from quantizers.trellis.hashed import entries, hashed_entries, hashed_values
from quantizers.trellis.states import state_table
from quantizers.trellis.trained import rounds


@pytest.mark.parametrize(("step_bits", "state_bits", "weights"), [(4, 8, 1 << 15), (6, 9, 1 << 15), (6, 16, 1 << 12)])
def test_no_round_raises_the_training_distortion(step_bits: int, state_bits: int, weights: int) -> None:
    found = list(islice(rounds(step_bits, state_bits, weights=weights, seed=1), 5))
    assert torch.equal(found[0][0], state_table(step_bits, state_bits).float())
    distortions = [distortion for _, distortion in found]
    assert all(after <= before for before, after in pairwise(distortions)), distortions
    assert distortions[2] < distortions[1] < distortions[0]  # few points may then be at rest


def test_states_pick_entries_and_signs() -> None:
    table = entries(9)
    entry, negative = hashed_entries(512, 16)
    assert entry.min() == 0
    assert entry.max() == 511
    values = hashed_values(table, 16)
    sign = torch.where(negative, -1.0, 1.0)
    assert torch.equal(values, torch.stack([table.float()[entry, 0] * sign, table.float()[entry, 1]], dim=1))


def test_a_trained_table_is_better_on_a_fresh_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITPALETTE_CACHE", str(tmp_path))
    plain, trained = make_quantizer("tcq-3", 8), make_quantizer("trained-tcq-3", 8)
    before, error = gaussian_distortion(plain, weights=1 << 16, seed=9)
    after, _ = gaussian_distortion(trained, weights=1 << 16, seed=9)
    assert after < before - 3 * error
    assert len(list((tmp_path / "codebooks").glob("trained-tcq-6-8-*.npy"))) == 1
    assert trained.settings()["codebook"] != plain.settings()["codebook"]
