"""From budgets to a timed plan in one command, on a tiny model and a CPU; and what it refuses before it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest
import torch
from commands import here, in_a_process
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from step_models import CONFIGS
from transformers import LlamaForCausalLM

import experiments.fit as experiment
from experiments.entry import CONF
from quantizers.checkpoint import load_checkpoint
from quantizers.kernels.fused_shapes import fused_shapes
from quantizers.kernels.random_model import block_layers
from quantizers.modules.fused import FusedMember

US = {"trellis2-2": 3.0, "trellis2-3": 4.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tables in `t`, latency.csv and config.json beside it: a product takes 3 or 4 us, however many are fused."""
    config = CONFIGS["llama"]()
    config.save_pretrained(tmp_path)
    layers = block_layers(config).assign(sensitivity=1.0)
    (tmp_path / "t").mkdir()
    layers.to_csv(tmp_path / "t/layers.csv", index=False)
    (tmp_path / "t/quantizers.csv").write_text(
        "quantizer,bits_per_weight,codebook_bytes,distortion,bytes_per_row\ntrellis2-2,2,0,0.07,2\ntrellis2-3,3,0,0.018,2\n"
    )
    rows = [(shape.members, name, "k", 1, us) for shape in fused_shapes(layers) for name, us in US.items()]
    names = ["members", "quantizer", "kernel", "batch", "latency_us"]
    pd.DataFrame([*rows, ("constant", "", "", 1, 50.0)], columns=names).to_csv(tmp_path / "latency.csv", index=False)
    return tmp_path


def fit(folder: Path, *overrides: str, run: Callable[..., CompletedProcess[str]] = here) -> CompletedProcess[str]:
    given = [f"tables={folder / 't'}", f"config={folder}", f"out={folder / 'out'}"]
    return run("fit", *given, "context=16", "replays=2", "steps=2", *overrides)


def test_two_budgets_become_a_plan_that_is_timed(folder: Path) -> None:
    done = fit(
        folder, f"latency={folder / 'latency.csv'}", "device=cpu", "glue=eager", "budget.latency_us=80",
        "budget.bits_per_weight=3", run=in_a_process,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plan = json.loads((folder / "out/allocation.json").read_text())
    assert plan["status"] == "optimal"
    assert plan["costs"]["latency_us"] <= 80
    fused = [entry for entry in plan["layers"].values() if entry["fused_with"]]
    assert len(fused) == 2 * 5, "seven products of a block at 3 us each are too slow: q, k, v and gate, up are one"
    step = json.loads((folder / "out/steps.json").read_text())["steps"][0]
    assert step["predicted_us"] == plan["costs"]["latency_us"]
    assert step["median_us"] > 0
    assert step["bytes"]["layers"] == step["bytes"]["planned_layers"] == plan["costs"]["memory_bytes"]
    assert "predicted_us" in done.stdout


def test_named_weights_become_a_checkpoint_that_is_fused_as_planned(folder: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIGS["llama"]()).save_pretrained(folder / "model")
    done = fit(
        folder, f"latency={folder / 'latency.csv'}", "device=cpu", "glue=eager", "budget.latency_us=80",
        f"weights={folder / 'model'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    held = load_checkpoint(folder / "out/checkpoint", packed=True).model
    plan = json.loads((folder / "out/allocation.json").read_text())["layers"]
    for name, entry in plan.items():
        assert isinstance(held.get_submodule(name), FusedMember) is bool(entry["fused_with"])


def test_a_profile_goes_on_where_it_was_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that a killed profile left is no reason to allocate from it."""
    asked: list[DictConfig] = []

    def profiled(cfg: DictConfig) -> None:
        asked.append(cfg)
        text = (folder / "latency.csv").read_text()
        (Path(cfg.tables) / "latency.csv").write_text(text[:200] if len(asked) == 1 else text)
        if len(asked) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(experiment.profile_latency, "main", profiled)
    given = [
        f"tables={folder / 't'}",
        f"config={folder}",
        f"out={folder / 'out'}",
        "context=16",
        "replays=2",
        "steps=2",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("fit", [*given, "device=cpu", "glue=eager", "budget.latency_us=80"])
        with pytest.raises(KeyboardInterrupt):
            experiment.main(cfg)
        assert not (folder / "out/allocation.json").exists()
        experiment.main(cfg)
    assert asked[0].tables == asked[1].tables == str(folder / "out/profile")
    assert list(asked[0].quantizers) == list(US)
    assert (folder / "out/tables/latency.csv").read_text() == (folder / "latency.csv").read_text()
    assert json.loads((folder / "out/allocation.json").read_text())["costs"]["latency_us"] <= 80


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_cannot_be_is_said_before_anything_is_written(folder: Path) -> None:
    for overrides, said in (
        (["budget.latency_us=80"], "no CUDA device"),
        (["device=cpu"], "no budget is set"),
        (["device=cpu", "budget.latency_us=80", f"latency={folder / 'absent.csv'}"], "absent.csv is not there"),
    ):
        done = fit(folder, *overrides)
        assert done.returncode == 2
        assert said in done.stderr
        assert not (folder / "out").exists()
