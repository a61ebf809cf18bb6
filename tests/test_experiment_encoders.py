"""The search for trellis constants and the benchmark of the encoders, as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantizers.trellis.bench import benchmark
from quantizers.trellis.search import search_rates

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to search on")
def test_the_search_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    done = run("experiments.search_trellis", f"out={tmp_path}/constants")
    assert done.returncode == 2
    assert "CUDA" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "constants").exists()


def test_a_search_that_cannot_be_is_refused() -> None:
    for quarters, candidates in (([4], 20), ([12, 25], 20), ([12], 3)):
        with pytest.raises(ValueError, match=r"quarters|candidates"):
            next(search_rates(quarters, candidates, torch.device("cpu")))


def test_the_benchmark_counts_updates_and_its_floor(tmp_path: Path) -> None:
    done = run(
        "experiments.bench_encoders", f"out={tmp_path}/b", "rates=[3]", "state_bits=[8]", "work=1e6", "repeats=3"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "b/encoders.json").read_text())
    rows = {row["quantizer"]: row for row in found["rows"] if row["device"] == "cpu"}
    assert set(rows) == {"trellis-3", "tcq-3", "half-tcq-3.25"}
    # all 256 steps twice; 128 steps of two weights and a window of ceil(16 L / k) steps on either side
    assert rows["trellis-3"]["updates_per_weight"] == 2 * 256
    assert rows["tcq-3"]["updates_per_weight"] == 256 / 2 * (128 + 2 * 22) / 128
    windows = ((128 + 2 * 22) / 128 + (128 + 2 * 19) / 128) / 2
    assert rows["half-tcq-3.25"]["updates_per_weight"] == pytest.approx(256 / 2 * windows)
    for row in rows.values():
        floor = row["updates_per_second_in_registers"] / row["updates_per_weight"]
        assert row["floor_weights_per_second"] == pytest.approx(floor)
        assert row["fraction_of_floor"] == pytest.approx(row["idle_weights_per_second"] / floor)
        assert row["weights_per_second"] * row["seconds_median"] == pytest.approx(row["weights"])
    assert found["environment"]["threads"] >= 1


def test_a_benchmark_that_cannot_be_is_refused() -> None:
    for rates, state_bits in (([1], [12]), ([2], [17]), ([2], [7])):
        with pytest.raises(ValueError, match=r"rates|state_bits"):
            benchmark(rates, state_bits, work=1.0, repeats=1)
