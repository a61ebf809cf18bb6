"""The rate-distortion experiment, run as a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from quantizers import make_quantizer

ROOT = Path(__file__).resolve().parent.parent


def run(*overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.measure_distortion", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_tables_hold_every_quantizer_of_the_palette(tmp_path: Path) -> None:
    out = tmp_path / "rates"
    done = run(f"out={out}", "palette.members=[nuq-2,nuq-3,tcq-2]", "state_bits=8", "weights=16384")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out / "quantizers.csv")
    assert table.columns.tolist() == [
        "quantizer", "bits_per_weight", "codebook_bytes", "distortion", "bytes_per_row", "standard_error",
    ]  # fmt: skip
    assert table.quantizer.tolist() == ["nuq-2", "nuq-3", "tcq-2"]
    for row in table.itertuples():
        quantizer = make_quantizer(str(row.quantizer), state_bits=8)
        assert (row.bits_per_weight, row.bytes_per_row) == (quantizer.bits_per_weight, quantizer.bytes_per_row)
    curve = pd.read_csv(out / "rate_distortion.csv")
    assert (curve.distortion == table.distortion).all()
    assert (curve.weights == 16384).all()
    assert {path.name for path in out.iterdir()} == {"quantizers.csv", "rate_distortion.csv", "run.json"}


def test_bad_settings_leave_nothing(tmp_path: Path) -> None:
    out = tmp_path / "rates"
    done = run(f"out={out}", "palette.members=[nuq-2,zcq-*]")
    assert done.returncode == 2
    assert "zcq-*" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()
