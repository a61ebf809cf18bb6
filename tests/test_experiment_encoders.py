"""The search for trellis constants and the benchmark of the encoders, as commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
