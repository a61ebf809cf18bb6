"""The rate-distortion experiment, run as a command."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from commands import here, in_a_process
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.entry import CONF
from experiments.measure_distortion import main
from quantizers import make_quantizer


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("measure_distortion", overrides=["weights=16384", *overrides])


def test_tables_hold_every_quantizer_of_the_palette(tmp_path: Path) -> None:
    out = tmp_path / "rates"
    settings = ("palette.members=[nuq-2,nuq-3,tcq-2]", "state_bits=8", "weights=16384")
    done = in_a_process("measure_distortion", f"out={out}", *settings)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) < 10  # the table and the bar, no log of the libraries that draw
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
    figure = {f"rate_distortion.{suffix}" for suffix in ("pdf", "png", "svg")}
    assert {path.name for path in out.iterdir()} == {"quantizers.csv", "rate_distortion.csv", "run.json", *figure}


def test_storage_columns_give_the_bytes_of_a_layer_and_published_points_are_drawn(tmp_path: Path) -> None:
    out, members = tmp_path / "rates", ["fp16", "int-4-g128", "nf-3-g64-e4m3", "nvfp4", "mxfp4", "e8"]
    (tmp_path / "published").mkdir()
    (tmp_path / "published/quantizers.csv").write_text(
        "quantizer,bits_per_weight,codebook_bytes,distortion\nqtip-3,3,0,0.018\n"
    )
    main(composed(f"out={out}", f"palette.members=[{','.join(members)}]", f"published={tmp_path}/published"))
    table = pd.read_csv(out / "quantizers.csv")
    assert set(table.quantizer) == set(members)
    for row in table.itertuples():
        rows, columns = 48, 640
        stored = math.ceil(rows * columns * float(row.bits_per_weight) / 8) + rows * row.bytes_per_row
        assert stored + row.codebook_bytes == make_quantizer(str(row.quantizer)).storage_bytes(rows, columns)
    assert table.set_index("quantizer").distortion["fp16"] == 0
    assert ">published<" in (out / "rate_distortion.svg").read_text()
    with pytest.raises(FileNotFoundError, match="absent"):
        main(composed(f"out={tmp_path}/other", "palette.members=[nuq-2]", f"published={tmp_path}/absent"))
    assert not (tmp_path / "other").exists()


def test_full_precision_alone_has_no_figure(tmp_path: Path) -> None:
    main(composed(f"out={tmp_path}/rates", "palette.members=[fp16]"))
    assert {path.name for path in (tmp_path / "rates").iterdir()} == {
        "quantizers.csv",
        "rate_distortion.csv",
        "run.json",
    }
    curve = pd.read_csv(tmp_path / "rates/rate_distortion.csv")
    assert curve[["distortion", "standard_error", "gap_db", "gap_db_se"]].values.tolist() == [[0, 0, -math.inf, 0]]


def test_bad_settings_leave_nothing(tmp_path: Path) -> None:
    out = tmp_path / "rates"
    done = here("measure_distortion", f"out={out}", "palette.members=[nuq-2,zcq-*]")
    assert done.returncode == 2
    assert "zcq-*" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()
