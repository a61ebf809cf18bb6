"""`experiments.sensitivity` and `experiments.evaluate` on a tiny model folder, as commands."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest
from commands import here, in_a_process
from sensitivity_models import write_tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a text."""
    out = tmp_path_factory.mktemp("tiny")
    write_tiny_folder(out)
    return out


def source(folder: Path) -> list[str]:
    return [f"model.path={folder / 'model'}", "model.sha256=null", f"text.path={folder / 'text.txt'}"]


def sensitivity(folder: Path, *overrides: str) -> CompletedProcess[str]:
    return here("sensitivity", *source(folder), *overrides)


def test_layers_are_filled_and_checked(folder: Path, tmp_path: Path) -> None:
    settings = ("calibration.window=32", "calibration.count=8", f"out={tmp_path}")
    fisher = ("sensitivity=fisher", "+sensitivity.draws=8", "+sensitivity.tokens=32")
    check = ("check.layers=7", "check.quantizer=nuq-4", "loss=[nuq-4]")
    done = in_a_process("sensitivity", *source(folder), *settings, *fisher, *check)
    assert done.returncode == 0, done.stderr
    layers = pd.read_csv(tmp_path / "layers.csv")
    assert layers.layer.iloc[0] == "model.embed_tokens"
    assert layers.sensitivity.notna().tolist() == [False] + [True] * 14
    assert set(layers.sensitivity_method.dropna()) == {"fisher"}
    losses, checked = pd.read_csv(tmp_path / "loss.csv"), pd.read_csv(tmp_path / "sensitivity_check.csv")
    assert list(losses.layer) == list(layers.layer[1:])
    assert len(checked) == 7
    merged = checked.merge(layers, on="layer").merge(losses, on="layer", suffixes=("", "_all"))
    assert merged.fisher.to_numpy() == pytest.approx((merged.sensitivity * merged.distortion).to_numpy())
    assert merged.measured_loss.to_numpy() == pytest.approx(merged.loss.to_numpy())
    # a second command fills the file that is there, and keeps what else it holds
    layers.assign(note="kept").to_csv(tmp_path / "layers.csv", index=False)
    done = sensitivity(folder, *settings, "sensitivity=constant")
    assert done.returncode == 0, done.stderr
    again = pd.read_csv(tmp_path / "layers.csv")
    assert set(again.note) == {"kept"}
    assert again.sensitivity.sum() == pytest.approx(1.0)
    assert json.loads((tmp_path / "run.json").read_text())["config"]["sensitivity"]["_target_"].endswith("Constant")


def test_a_foreign_layers_file_is_refused_and_kept(folder: Path, tmp_path: Path) -> None:
    content = "layer,out_features,in_features,fusion_group,sensitivity\nother.layer,2,2,g,1.0\n"
    (tmp_path / "layers.csv").write_text(content)
    done = sensitivity(folder, f"out={tmp_path}")
    assert done.returncode == 2
    assert "it lacks the layer 'model.layers.0.mlp.down_proj'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["layers.csv"]
    assert (tmp_path / "layers.csv").read_text() == content


def test_a_checkpoint_is_evaluated(folder: Path, tmp_path: Path) -> None:
    from quantizers.checkpoint import LayerChoice, write_checkpoint
    from quantizers.models import linear_slots, load_model

    loaded = load_model(str(folder / "model"))
    for rate in (3, 6):
        choices = {name: LayerChoice(quantizer=f"nuq-{rate}") for name in linear_slots(loaded.model)}
        write_checkpoint(tmp_path / f"n{rate}", loaded, choices, rotation_seed=0, state_bits=12, cache=None)
    given = (*source(folder), "windows=3", "window=40")
    done = in_a_process("evaluate", *given, f"checkpoint=[{tmp_path}/n3,{tmp_path}/n6]", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "out/evaluation.csv")
    summary = pd.read_csv(tmp_path / "out/summary.csv").set_index("plan")
    assert frame.groupby("plan").window.count().to_dict() == {"reference": 3, "n3": 3, "n6": 3}
    assert summary.loc["n3", "kl"] > summary.loc["n6", "kl"] > summary.loc["reference", "kl"] == 0
    assert summary.loc["n3", "memory_bytes"] < summary.loc["n6", "memory_bytes"]
    assert summary.loc["n6", "disk_bytes"] == sum(f.stat().st_size for f in (tmp_path / "n6").glob("*.safetensors"))
    done = here("evaluate", *given, f"checkpoint={tmp_path / 'none'}", f"out={tmp_path / 'failed'}")
    assert done.returncode == 2
    assert "holds no config.json" in done.stderr
    assert not (tmp_path / "failed").exists()
