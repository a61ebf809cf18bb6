"""The command runs on a CPU without a graph, writes what it says, and imports nothing that a bare GPU machine lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from step_models import CONFIGS

from experiments import verify_latency
from experiments.entry import CONF
from quantizers.kernels import decode_step
from quantizers.kernels.fused_shapes import fused_shapes
from quantizers.kernels.random_model import block_layers
from quantizers.kernels.random_plan import MIXED
from quantizers.kernels.rest_of_token import lean_rest

GIVEN = ["--device", "cpu", "--glue", "eager", "--replays", "2", "--steps", "3", "--context", "16"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """config.json, and latency.csv with every product of it, a microsecond for each 64 rows."""
    config = CONFIGS["llama"]()
    config.save_pretrained(tmp_path)
    rows = [
        (shape.members, quantizer, "k", 1, shape.out_features, shape.in_features, shape.out_features / 64)
        for shape in fused_shapes(block_layers(config))
        for quantizer in (*MIXED, "trellis-3", "fp16")
    ]
    names = ["members", "quantizer", "kernel", "batch", "out_features", "in_features", "latency_us"]
    table = pd.DataFrame([*rows, ("constant", "", "", 1, None, None, 50.0)], columns=names)
    table.to_csv(tmp_path / "latency.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("step", ["lean", "transformers"])
def test_rows_are_written(folder: Path, step: str) -> None:
    out = folder / "new" / "step.json"
    given = ["--config", str(folder), "--plans", "trellis-3.25", "fp16:unfused", "--batches", "1", "3"]
    decode_step.main([*given, *GIVEN, "--step", step, "--out", str(out)])
    record = json.loads(out.read_text())
    assert [(row["plan"], row["batch"]) for row in record["steps"]] == [
        ("trellis-3.25:fused", 1), ("trellis-3.25:fused", 3), ("fp16:unfused", 1), ("fp16:unfused", 3),
    ]  # fmt: skip
    for row in record["steps"]:
        assert 0 < row["least_us"] <= row["median_us"] <= row["most_us"]
        assert row["tokens_per_s"] == pytest.approx(row["batch"] * 1e6 / row["median_us"])
        assert row["bytes"]["layers"] == row["bytes"]["planned_layers"]
        assert row["cache_bytes"] == 2 * 2 * row["batch"] * 2 * 16 * 16 * 2  # K and V, blocks, heads, tokens, d, bytes
    assert (record["step"], record["context"]) == (step, 16)


def test_a_prediction_stands_beside(folder: Path) -> None:
    given = ["--config", str(folder), "--plans", "trellis-3", "--latency", str(folder / "latency.csv"), *GIVEN]
    decode_step.main([*given, "--out", str(folder / "a.json")])
    row = json.loads((folder / "a.json").read_text())["steps"][0]
    assert row["predicted_us"] == 50 + 2 * (128 + 64 + 384 + 64) / 64
    assert row["error_percent"] == pytest.approx(100 * (row["predicted_us"] / row["median_us"] - 1))
    decode_step.main([*given, "--constant", "measured", "--head", "int8", "--out", str(folder / "b.json")])
    row = json.loads((folder / "b.json").read_text())["steps"][0]
    assert row["predicted_us"] - row["constant_us"] == pytest.approx(2 * 640 / 64)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--plans", "trellis-9"], "no quantizer is named"),
        (["--plans", "tcq-3", "--latency", "latency.csv"], "has no row q_proj"),
        (["--plans", "trellis-3", "--head", "int-4"], "a head of int-4"),
        (["--plans", "trellis-3", "--head", "int8", "--latency", "latency.csv"], "--constant measured"),
        (["--plans", "trellis-3", "--attention", "full", "--latency", "latency.csv"], "is of masked attention"),
        (["--plans", "trellis-3", "--step", "transformers", "--steps", "20"], "a context of 16 holds no 20 steps"),
        (["--plans", "trellis-3", "--device", "cuda"], "no CUDA device"),
        (["--plans", "trellis-3", "--config", "nowhere"], "nowhere has no config.json"),
    ],
)
def test_what_cannot_be_measured_is_one_message(folder: Path, more: list[str], said: str) -> None:
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is one")
    more = [str(folder / word) if word == "latency.csv" else word for word in more]
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        decode_step.main(["--config", str(folder), *GIVEN, *more, "--out", str(folder / "out.json")])
    assert not (folder / "out.json").exists()


def test_the_experiment_compares_all_plans(folder: Path) -> None:
    places = [f"config={folder}", f"latency={folder / 'latency.csv'}", f"out={folder / 'run'}"]
    quick = ["device=cpu", "glue=eager", "replays=2", "steps=2", "context=16"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("verify_latency", overrides=[*places, *quick])
    verify_latency.main(cfg)
    rows = pd.read_csv(folder / "run" / "verify_latency.csv")
    assert len(rows) == rows.plan.nunique() == 12
    assert (rows.constant_us == 50).all()
    run = json.loads((folder / "run" / "run.json").read_text())
    assert run["worst_error_percent"] == pytest.approx(rows.error_percent.abs().max())


def test_the_rest_of_a_token_is_the_step_without_products() -> None:
    for rotated in (True, False):
        rest = lean_rest(CONFIGS["llama"](), 2, 8, torch.device("cpu"), compiled=False, rotated=rotated)
        assert rest().shape == (2, 96)
        assert rest().isfinite().all()


def test_it_runs_where_only_torch_pandas_and_transformers_are() -> None:
    lacking = ("hydra", "omegaconf", "cvxpy", "pulp", "highspy", "gguf", "rich", "lm_eval", "experiments", "alloc")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({lacking!r}))
from quantizers.kernels import decode_step, predicted_step
"""
    subprocess.run([sys.executable, "-c", code], check=True)
