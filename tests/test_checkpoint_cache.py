"""The cache of codes: a changed plan encodes only what changed, and a damaged entry counts as absent."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from checkpoint_models import STATE_BITS, folder_hashes, tiny, uniform

from quantizers import make_quantizer
from quantizers.checkpoint import CachedCode, CodeCache, LayerChoice, code_key, write_checkpoint
from quantizers.checkpoint.encoding import fresh_code, planned_layers
from quantizers.models import linear_slots
from quantizers.rotation import Rotation

SETTINGS = {"rotation_seed": 0, "state_bits": STATE_BITS}


def test_a_changed_plan_encodes_only_the_changed_layers(tmp_path: Path) -> None:
    model = tiny()
    first, second = uniform(model, "nuq-3"), uniform(model, "nuq-3")
    changed = {"model.layers.0.mlp.up_proj": "nuq-2", "model.layers.1.self_attn.v_proj": "vq-2"}
    second |= {name: LayerChoice(quantizer=quantizer) for name, quantizer in changed.items()}
    cache = tmp_path / "cache"
    assert not write_checkpoint(tmp_path / "a", model, first, cache=cache, **SETTINGS).cached.any()
    report = write_checkpoint(tmp_path / "b", model, second, cache=cache, **SETTINGS)
    assert set(report.layer[~report.cached]) == set(changed)
    again = write_checkpoint(tmp_path / "c", model, second, cache=cache, **SETTINGS)
    assert again.cached.all()
    assert again.distortion.equals(report.distortion)
    fresh = write_checkpoint(tmp_path / "d", model, second, cache=None, **SETTINGS)
    assert not fresh.cached.any()
    assert folder_hashes(tmp_path / "b") == folder_hashes(tmp_path / "c") == folder_hashes(tmp_path / "d")


def test_the_key_holds_everything_that_decides_the_codes() -> None:
    W = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    other = W.clone()
    other[3, 4] = torch.nextafter(other[3, 4], torch.tensor(10.0))
    rotation = Rotation(in_features=32, seed=0, group="g")
    keys = [
        code_key(W, make_quantizer("nuq-3"), rotation),
        code_key(other, make_quantizer("nuq-3"), rotation),
        code_key(W.view(32, 16).contiguous(), make_quantizer("nuq-3"), rotation),
        code_key(W, make_quantizer("nuq-4"), rotation),
        code_key(W, make_quantizer("tcq-3", 8), rotation),
        code_key(W, make_quantizer("tcq-3", 9), rotation),
        code_key(W, make_quantizer("nuq-3"), Rotation(in_features=32, seed=1, group="g")),
        code_key(W, make_quantizer("nuq-3"), Rotation(in_features=32, seed=0, group="h")),
        code_key(W, make_quantizer("nuq-3"), None),
    ]
    assert len(set(keys)) == len(keys)
    assert code_key(W.clone(), make_quantizer("nuq-3"), rotation) == keys[0]


def test_the_key_holds_the_blocks_that_a_limit_leaves() -> None:
    W = torch.randn(4, 1024, generator=torch.Generator().manual_seed(0))
    keys = [
        code_key(W, make_quantizer("nuq-3"), Rotation(in_features=1024, seed=0, group="g", most_block=most_block))
        for most_block in (0, 2048, 1024, 1000, 512, 256)
    ]
    assert keys[0] == keys[1] == keys[2], "the whole input is mixed"
    assert keys[3] == keys[4], "two blocks"
    assert len(set(keys)) == 3


def entry(folder: Path) -> tuple[CodeCache, str, CachedCode]:
    model = tiny()
    layers = planned_layers(model.model, linear_slots(model.model), uniform(model, "nuq-3"), **SETTINGS)
    code = fresh_code(layers[0], layers[0].slot.weight)
    key = code_key(layers[0].slot.weight, layers[0].quantizer, layers[0].rotation)
    cache = CodeCache(folder)
    cache.put(key, code)
    return cache, key, code


def test_an_entry_comes_back_whole(tmp_path: Path) -> None:
    cache, key, code = entry(tmp_path)
    found = cache.get(key, 64, 64)
    assert found is not None
    assert found.distortion == code.distortion
    assert found.encoded.tensors.keys() == code.encoded.tensors.keys()
    assert all(torch.equal(found.encoded.tensors[k], t) for k, t in code.encoded.tensors.items())
    assert cache.get("0" * 64, 64, 64) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [cache.path(key)]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "header", "other key"])
def test_a_damaged_entry_is_absent_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, key, _ = entry(tmp_path)
    path = cache.path(key)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    elif damage == "cut":
        del data[-5:]
    elif damage == "empty":
        data.clear()
    elif damage == "header":
        data[8] ^= 0xFF
    else:
        key = "f" * 64
        path = cache.path(key)
        path.parent.mkdir()
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert cache.get(key, 64, 64) is None
    assert str(path) in caplog.text


def test_a_damaged_entry_is_written_anew(tmp_path: Path) -> None:
    model = tiny()
    plan = uniform(model, "nuq-3")
    write_checkpoint(tmp_path / "a", model, plan, cache=tmp_path / "cache", **SETTINGS)
    victim = sorted((tmp_path / "cache").rglob("*.safetensors"))[5]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1])
    report = write_checkpoint(tmp_path / "b", model, plan, cache=tmp_path / "cache", **SETTINGS)
    assert (~report.cached).sum() == 1
    assert victim.read_bytes() == whole
    assert folder_hashes(tmp_path / "a") == folder_hashes(tmp_path / "b")
