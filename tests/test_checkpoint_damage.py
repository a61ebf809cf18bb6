"""Bad inputs and damaged checkpoints: one message with the name of the tensor, and nothing half-written."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoint_models import STATE_BITS, folder_hashes, logits, mixed, tiny, uniform

from quantizers.checkpoint import LayerChoice, load_checkpoint, write_checkpoint
from quantizers.checkpoint.shards import tensor_spans
from quantizers.models import linear_slots

SETTINGS = {"rotation_seed": 0, "state_bits": STATE_BITS}
NAMED = ("model.layers.1.mlp.down_proj.codes", "model.layers.0.self_attn.q_proj.row_scale", "model.embed_tokens.weight")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to damage copies of."""
    folder = tmp_path_factory.mktemp("whole") / "c"
    model = tiny()
    write_checkpoint(folder, model, mixed(model), cache=None, **SETTINGS)
    return folder


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "c"))


@pytest.mark.parametrize("name", NAMED)
def test_one_flipped_bit_names_the_tensor(checkpoint: Path, name: str) -> None:
    path = checkpoint / "model.safetensors"
    offset, spans = tensor_spans(path)
    data = bytearray(path.read_bytes())
    data[offset + spans[name][1] - 1] ^= 1
    path.write_bytes(data)
    layer = name.rpartition(".")[0]
    expected = f"'{name}'" if "embed" in name else f"'{name}' \\(layer '{layer}'"
    with pytest.raises(ValueError, match=expected):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", NAMED)
def test_a_file_cut_off_names_the_tensor(checkpoint: Path, name: str) -> None:
    path = checkpoint / "model.safetensors"
    offset, spans = tensor_spans(path)
    path.write_bytes(path.read_bytes()[: offset + spans[name][1] - 1])
    with pytest.raises(ValueError, match=f"cut off within tensor '{name}'"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("keep", [0, 4, 100])
def test_a_cut_header(checkpoint: Path, keep: int) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_checkpoint(checkpoint)


def test_missing_files(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors"):
        load_checkpoint(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_checkpoint(checkpoint)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_checkpoint(checkpoint / "nowhere")


def test_a_damaged_config(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    content = json.loads(path.read_text())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_checkpoint(checkpoint)
    later = {**content, "quantization_config": {**content["quantization_config"], "format_version": 2}}
    path.write_text(json.dumps(later))
    with pytest.raises(ValueError, match="format_version 2; this reads 'bitpalette', 1"):
        load_checkpoint(checkpoint)
    foreign = {**content, "quantization_config": {"quant_method": "gptq"}}
    path.write_text(json.dumps(foreign))
    with pytest.raises(ValueError, match="'gptq'"):
        load_checkpoint(checkpoint)
    lacking = json.loads(json.dumps(content))
    del lacking["quantization_config"]["checksums"]
    path.write_text(json.dumps(lacking))
    with pytest.raises(ValueError, match="'checksums'"):
        load_checkpoint(checkpoint)
    other = json.loads(json.dumps(content))
    other["quantization_config"]["quantizers"]["tcq-2"]["state_bits"] = 5
    path.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="tcq-2 was written with"):
        load_checkpoint(checkpoint)


def test_a_tensor_that_config_does_not_list_or_lacks(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    content = json.loads(path.read_text())
    checksums = content["quantization_config"]["checksums"]
    kept = checksums.pop(NAMED[0])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"'{NAMED[0]}'.* does not list"):
        load_checkpoint(checkpoint)
    checksums |= {NAMED[0]: kept, "model.layers.9.mlp.up_proj.codes": kept}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lacks tensor 'model\.layers\.9\.mlp\.up_proj\.codes'"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj", "model.embed_tokens", "model.norm"])
def test_a_weight_that_is_not_finite_is_named_and_nothing_written(name: str, value: float, tmp_path: Path) -> None:
    model = tiny()
    model.model.get_submodule(name).weight.data.view(-1)[5] = value
    with pytest.raises(ValueError, match=name):
        write_checkpoint(tmp_path / "c", model, uniform(model, "nuq-2"), cache=None, **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_float16_are_named(tmp_path: Path) -> None:
    model = tiny(tied=False)
    model.model.lm_head.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"lm_head\.weight.*1e\+06"):
        write_checkpoint(tmp_path / "c", model, uniform(model, "nuq-2"), cache=None, **SETTINGS)


@pytest.mark.parametrize(
    ("name", "quantizer", "message"),
    [
        ("model.layers.7.mlp.up_proj", "nuq-2", "model.layers.7.mlp.up_proj"),
        ("model.layers.1.mlp.up_proj", "nuq-9", "nuq-9"),
        ("model.embed_tokens", "nuq-2", "'model.embed_tokens' is stored in 16 bits, or as the head that it is tied to"),
    ],
)
def test_a_plan_of_another_model(name: str, quantizer: str, message: str, tmp_path: Path) -> None:
    model = tiny()
    choices = uniform(model, "nuq-2") | {name: LayerChoice(quantizer=quantizer)}
    with pytest.raises(ValueError, match=message):
        write_checkpoint(tmp_path / "c", model, choices, cache=None, **SETTINGS)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to write files beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    model = tiny()
    with largest_file(9_000), pytest.raises(OSError, match=r"cannot write .*c: File too large; it needs \d+ bytes"):
        write_checkpoint(tmp_path / "c", model, uniform(model, "nuq-2"), cache=None, **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    model = tiny()
    with largest_file(500), pytest.raises(OSError, match="cannot write the code cache"):
        write_checkpoint(tmp_path / "c", model, uniform(model, "nuq-2"), cache=tmp_path / "cache", **SETTINGS)
    assert not (tmp_path / "c").exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_too_small_a_disk_is_known_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needs \d+ bytes, 1000 are free") as caught:
        write_checkpoint(tmp_path / "c", model, uniform(model, "nuq-2"), cache=tmp_path / "cache", **SETTINGS)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_checkpoint(checkpoint: Path) -> None:
    before, old = folder_hashes(checkpoint), logits(load_checkpoint(checkpoint))
    model = tiny()
    with largest_file(9_000), pytest.raises(OSError, match="cannot write"):
        write_checkpoint(checkpoint, model, uniform(model, "nuq-2"), cache=None, **SETTINGS)
    assert folder_hashes(checkpoint) == before
    write_checkpoint(checkpoint, model, uniform(model, "nuq-2"), cache=None, **SETTINGS)
    assert not torch.equal(logits(load_checkpoint(checkpoint)), old)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["c"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/notes.txt").write_text("mine")
    model = tiny()
    assert linear_slots(model.model)
    with pytest.raises(FileExistsError, match="neither empty nor a checkpoint"):
        write_checkpoint(tmp_path / "c", model, uniform(model, "nuq-2"), cache=None, **SETTINGS)
    assert (tmp_path / "c/notes.txt").read_text() == "mine"
