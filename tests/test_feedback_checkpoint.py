"""Error feedback in checkpoints and commands: same bytes, smaller output errors, cached by what decides the codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from checkpoint_models import STATE_BITS, folder_hashes, tiny, uniform
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sensitivity_models import write_tiny_folder

from experiments.entry import CONF
from experiments.quantize import feedback
from quantizers import make_quantizer
from quantizers.checkpoint import code_key, load_checkpoint, write_checkpoint
from quantizers.feedback import (
    METHODS,
    TOKEN_WEIGHTS,
    Correction,
    Feedback,
    Ldlq,
    Plain,
    QuantEase,
    SecondMoments,
    TokenWeights,
    Uniform,
    write_settings,
)
from quantizers.feedback.calibration import calibrate
from quantizers.feedback.correction import relative_error
from quantizers.models import LoadedModel, linear_slots
from quantizers.rotation import MOST_BLOCK, Rotation

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"rotation_seed": 0, "state_bits": STATE_BITS}


def calibrated(folder: Path, model: LoadedModel) -> SecondMoments:
    windows = torch.randint(96, (4, 64), generator=torch.Generator().manual_seed(3))
    slots = linear_slots(model.model)
    calibrate(folder, model.model, slots, windows, token_weights=Uniform(), rotation_seed=0)
    write_settings(folder, {"rotation_seed": 0})
    return SecondMoments(folder)


@pytest.mark.parametrize("method", [Ldlq(), QuantEase(sweeps=1)])
def test_a_checkpoint_loses_less_in_the_same_bytes(method: Feedback, tmp_path: Path) -> None:
    model = tiny()
    moments = calibrated(tmp_path / "H", model)
    plan, cache = uniform(model, "tcq-2"), tmp_path / "cache"
    correction = Correction(method=method, moments=moments)
    plain = write_checkpoint(tmp_path / "plain", model, plan, cache=cache, **SETTINGS)
    fed = write_checkpoint(tmp_path / "fed", model, plan, cache=cache, correction=correction, **SETTINGS)
    assert not fed.cached.any()
    assert fed.storage_bytes.equals(plain.storage_bytes)
    reference = linear_slots(model.model)
    errors = {}
    for name in ("plain", "fed"):
        for layer, slot in linear_slots(load_checkpoint(tmp_path / name).model).items():
            rotation = Rotation(in_features=slot.weight.shape[1], seed=0, group=slot.fusion_group)
            W, found = (rotation.rotate_weight(w) for w in (reference[layer].weight, slot.weight))
            errors[name, layer] = relative_error(W, found, moments.moment(slot.fusion_group))
    for row in fed.itertuples():
        assert errors["fed", row.layer] == pytest.approx(row.distortion, rel=1e-3)
        assert errors["fed", row.layer] < errors["plain", row.layer]
    again = write_checkpoint(tmp_path / "again", model, plan, cache=cache, correction=correction, **SETTINGS)
    assert again.cached.all()
    assert folder_hashes(tmp_path / "again") == folder_hashes(tmp_path / "fed")


def test_the_key_holds_the_method_and_the_moment() -> None:
    W, H = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), torch.eye(16)
    quantizer, rotation = make_quantizer("nuq-3"), Rotation(in_features=16, seed=0, group="g")
    moments = SecondMoments(Path("nowhere"))
    corrections = [Correction(method=m, moments=moments) for m in (Ldlq(), Ldlq(damping=0.1), QuantEase())]
    facts = [None, Correction(method=Plain()).facts(None), *(c.facts(H) for c in corrections)]
    keys = [code_key(W, quantizer, rotation, fact) for fact in facts] + [
        code_key(W, quantizer, rotation, corrections[0].facts(2 * H))
    ]
    assert keys[0] == keys[1] == code_key(W, quantizer, rotation)
    assert len(set(keys[1:])) == len(keys) - 1


def test_moments_of_another_model_or_rotation_are_refused(tmp_path: Path) -> None:
    model = tiny()
    correction = Correction(method=Ldlq(), moments=calibrated(tmp_path / "H", model))
    plan = uniform(model, "nuq-2")
    with pytest.raises(ValueError, match=r"rotation\.seed=0, not 5"):
        write_checkpoint(
            tmp_path / "c", model, plan, cache=None, correction=correction, rotation_seed=5, state_bits=STATE_BITS
        )
    assert not (tmp_path / "c").exists()
    with pytest.raises(ValueError, match="feedback=ldlq reads the"):
        Correction(method=Ldlq())
    # what is kept in 16 bits takes no feedback
    kept = write_checkpoint(
        tmp_path / "c", model, uniform(model, "fp16"), cache=None, correction=correction, **SETTINGS
    )
    assert (kept.distortion < 1e-6).all()


def command(name: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    model = [f"model.path={folder / 'model'}", "model.sha256=null"]
    line = [sys.executable, "-m", f"experiments.{name}", *model, *overrides]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def test_calibrate_then_quantize_as_commands(tmp_path: Path) -> None:
    write_tiny_folder(tmp_path)
    text = (f"text.path={tmp_path / 'text.txt'}", "calibration.window=32", "calibration.count=4")
    done = command("calibrate", tmp_path, *text, f"out={tmp_path / 'H'}", "tokens=attention")
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "H" / "hessians.json").read_text())
    assert (settings["rotation_seed"], settings["tokens"], settings["windows"]) == (0, "attention", [4, 32])
    assert settings["most_block"] == MOST_BLOCK
    assert (tmp_path / "H" / "run.json").is_file()
    shared = ("uniform=nuq-2", f"cache={tmp_path / 'cache'}", f"out={tmp_path / 'c'}", "feedback=ldlq")
    done = command("quantize", tmp_path, *shared, f"hessians={tmp_path / 'H'}")
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "c.run" / "quantization.csv")) == 14


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_preset(method: type[Feedback], tmp_path: Path) -> None:
    overrides = ["out=none", f"feedback={method.name}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = feedback(compose("quantize", overrides=[*overrides, f"hessians={tmp_path}"]))
        assert isinstance(given.method, method)
        assert given.moments == (SecondMoments(tmp_path) if method.needs_moments else None)
        cfg = compose("quantize", overrides=overrides)
    if method.needs_moments:
        with pytest.raises(ValueError, match=f"feedback={method.name} needs hessians=DIR"):
            feedback(cfg)


@pytest.mark.parametrize("token_weights", TOKEN_WEIGHTS)
def test_all_token_weights_are_presets(token_weights: type[TokenWeights]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("calibrate", overrides=["out=none", f"tokens={token_weights.name}"])
    assert isinstance(instantiate(cfg.tokens), token_weights)
