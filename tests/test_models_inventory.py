"""`experiments.inventory` as a user runs it: the table of a folder, one line and no file on a bad model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from experiments.entry import CONF
from experiments.inventory import main
from quantizers.kernels.random_model import block_layers
from quantizers.models import load_model
from quantizers.models.empty import read_architecture
from quantizers.models.location import split_hash

PRESETS = [(folder, path.stem) for folder in ("model", "text") for path in sorted((CONF / folder).glob("*.yaml"))]


def test_layers_of_a_mixture_of_experts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=3,
        moe_intermediate_size=16,
        num_experts_per_tok=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("inventory", [f"model.path={tmp_path / 'model'}", f"out={tmp_path / 'out'}"])
    main(cfg)
    printed = capsys.readouterr().out
    layers = pd.read_csv(tmp_path / "out" / "layers.csv")
    assert list(layers) == ["layer", "out_features", "in_features", "fusion_group", "sensitivity"]
    assert len(layers) == 2 + 2 * (4 + 3 * 3)
    assert "mlp.experts.gate_proj" in printed
    assert "26 layers in 16 fusion groups" in printed  # a block: qkv, o, and two of each of three experts
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"layers.csv", "run.json"}


def test_an_architecture_needs_no_weights(tmp_path: Path) -> None:
    """Its layers, and a config.json that gives the same ones; what needs weights says so."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("inventory", ["model=llama-3.1-8b", f"out={tmp_path}"])
    main(cfg)
    layers = pd.read_csv(tmp_path / "layers.csv")
    weights = (layers.out_features * layers.in_features).sum()
    assert weights + 65 * 4096 == 8_030_261_248  # parameters of the published model, norms too
    blocks = layers[layers.layer.str.contains(r"layers\.")]
    alone = block_layers(read_architecture(tmp_path))
    assert blocks[alone.columns].reset_index(drop=True).equals(alone)
    with pytest.raises(ValueError, match="architecture without weights"):
        load_model(cfg.model.path)


def test_a_bad_model_is_one_line_and_no_file(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "experiments.inventory",
        f"model.path={tmp_path / 'absent'}",
        f"out={tmp_path / 'out'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CONF.parent, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folder", "name"), PRESETS)
def test_presets_compose(folder: str, name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        preset = compose(overrides=[f"+{folder}={name}"])[folder]
    if name == "path":
        assert set(preset) == {"path", "sha256"}
        return
    if "architecture" in preset:
        assert preset.path is None
        assert preset.architecture.model_type in ("llama", "qwen3")
        return
    location, sha256 = split_hash(preset.path)
    assert location.startswith("package:")
    assert sha256 is not None
    assert len(bytes.fromhex(sha256)) == 32
    assert set(preset) == {"path", "sha256" if folder == "model" else "min_characters"}
