"""A checkpoint holds what was charged, and gives back the quantized model bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_models import (
    MIXED,
    SIZES,
    STATE_BITS,
    folder_hashes,
    loaded,
    logits,
    mixed,
    tiny,
    tiny_experts,
    tiny_with_biases,
    uniform,
)
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from quantizers import make_quantizer
from quantizers.checkpoint import LayerChoice, load_checkpoint, quantize_in_place, read_config, write_checkpoint
from quantizers.checkpoint.shards import shard_files
from quantizers.linear import QuantizedLinear
from quantizers.models import LoadedModel, linear_slots
from quantizers.rotation import Rotation

MODELS = {
    "tied": tiny,
    "own head": lambda: tiny(tied=False),
    "bfloat16 source": lambda: tiny("bfloat16"),
    "biases": tiny_with_biases,
    "experts": tiny_experts,
}
SETTINGS = {"rotation_seed": 3, "state_bits": STATE_BITS}


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_logits_are_the_quantized_models_bit_for_bit(
    make: Callable[[], LoadedModel], packed: bool, tmp_path: Path
) -> None:
    original, in_memory = make(), make()
    choices = mixed(original)
    before = logits(original)
    report = write_checkpoint(tmp_path / "c", original, choices, cache=tmp_path / "cache", **SETTINGS)
    assert torch.equal(logits(original), before), "writing must not change the model"
    rows = quantize_in_place(in_memory, choices, packed=packed, **SETTINGS)
    restored = load_checkpoint(tmp_path / "c", packed=packed)
    assert torch.equal(logits(restored), logits(in_memory))
    assert not torch.equal(logits(restored), before)
    columns = ["layer", "quantizer", "storage_bytes", "distortion"]
    assert rows[columns].equals(report[columns])
    assert restored.model.training is False
    assert not any(p.requires_grad for p in restored.model.parameters())


def test_packed_and_dense_are_the_same_model(tmp_path: Path) -> None:
    model = tiny()
    write_checkpoint(tmp_path / "c", model, mixed(model), cache=None, **SETTINGS)
    dense, packed = load_checkpoint(tmp_path / "c"), load_checkpoint(tmp_path / "c", packed=True)
    torch.testing.assert_close(logits(packed), logits(dense), rtol=0, atol=1e-5)
    modules = [m for m in packed.model.modules() if isinstance(m, QuantizedLinear)]
    assert len(modules) == 14
    assert linear_slots(packed.model) == {}


def test_dense_weights_by_definition(tmp_path: Path) -> None:
    model = tiny()
    choices = mixed(model)
    write_checkpoint(tmp_path / "c", model, choices, cache=None, **SETTINGS)
    restored = linear_slots(load_checkpoint(tmp_path / "c").model)
    for name, slot in linear_slots(model.model).items():
        quantizer = make_quantizer(choices[name].quantizer, STATE_BITS)
        if quantizer.rotated:
            R = Rotation(in_features=slot.weight.shape[1], seed=3, group=slot.fusion_group).matrix()
            coded = quantizer.decode(quantizer.encode((slot.weight.double() @ R.T).float())).double() @ R
            # the explicit product rounds otherwise: single codes at a decision threshold may differ
            wrong = (restored[name].weight - coded).norm() / coded.norm()
            assert wrong < 0.05, name
        else:
            assert torch.equal(restored[name].weight, slot.weight.half().float())


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_bytes_in_the_file_are_the_bytes_charged(make: Callable[[], LoadedModel], tmp_path: Path) -> None:
    model = make()
    choices = mixed(model)
    report = write_checkpoint(tmp_path / "c", model, choices, cache=None, shard_bytes=20_000, **SETTINGS)
    slots = linear_slots(model.model)
    charged = {
        name: make_quantizer(choices[name].quantizer, STATE_BITS).storage_bytes(*slot.weight.shape)
        for name, slot in slots.items()
    }
    assert dict(zip(report.layer, report.storage_bytes, strict=True)) == charged
    held = dict.fromkeys(slots, 0)
    others = 0
    files = shard_files(tmp_path / "c")
    assert len(files) > 1
    for path in files:
        with safe_open(path, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - not a dictionary
                tensor = shard.get_tensor(name)
                layer, _, key = name.rpartition(".")
                if layer in held and key != "bias":
                    held[layer] += tensor.numel() * tensor.element_size()
                elif not name.startswith("codebook."):
                    others += tensor.numel()
                    expected = torch.bfloat16 if model.source_dtype == "bfloat16" else torch.float16
                    assert tensor.dtype == (torch.float32 if tensor.ndim == 1 else expected)
    assert held == charged
    assert others == sum(p.numel() for p in model.model.parameters()) - sum(s.weight.numel() for s in slots.values())
    packed = load_checkpoint(tmp_path / "c", packed=True)
    for name, module in packed.model.named_modules():
        if isinstance(module, QuantizedLinear):
            assert module.storage_bytes == charged[name]
    stored = read_config(tmp_path / "c")[1]
    assert stored.storage_bytes == sum(charged.values())
    assert {name: record.storage_bytes for name, record in stored.layers.items()} == charged


def test_shards_hold_the_same_model(tmp_path: Path) -> None:
    model = tiny()
    write_checkpoint(tmp_path / "one", model, mixed(model), cache=tmp_path / "cache", **SETTINGS)
    write_checkpoint(tmp_path / "many", model, mixed(model), cache=tmp_path / "cache", shard_bytes=5_000, **SETTINGS)
    assert torch.equal(logits(load_checkpoint(tmp_path / "one")), logits(load_checkpoint(tmp_path / "many")))
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(read_config(tmp_path / "many")[1].checksums)


def test_config_is_what_the_format_says(tmp_path: Path) -> None:
    model = tiny()
    choices = mixed(model)
    q, k = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
    choices[q] = LayerChoice(quantizer="nuq-3", kernel="tensor-core", fused_with=(k,))
    choices[k] = LayerChoice(quantizer="nuq-3", kernel="tensor-core", fused_with=(q,))
    write_checkpoint(tmp_path / "c", model, choices, cache=None, **SETTINGS)
    content = json.loads((tmp_path / "c/config.json").read_text())
    assert content["model_type"] == "llama"
    quantization = content["quantization_config"]
    assert quantization["quant_method"] == "bitpalette"
    assert quantization["format_version"] == 1
    assert quantization["rotation"] == {"seed": 3, "most_block": 0}
    entry = quantization["layers"][q]
    assert (entry["quantizer"], entry["kernel"], entry["fused_with"]) == ("nuq-3", "tensor-core", [k])
    assert entry["storage_bytes"] == 64 * 64 * 3 // 8 + 2 * 64
    assert list(quantization["layers"]) == list(linear_slots(model.model))
    used = {choice.quantizer for choice in choices.values()}
    tables = {name for name in used if make_quantizer(name, STATE_BITS).codebook() is not None}
    assert set(quantization["codebooks"]) == tables
    assert set(quantization["quantizers"]) == used


def wide() -> LoadedModel:
    """A Llama of one block whose down_proj has 512 inputs."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, "intermediate_size": 512, "num_hidden_layers": 1}, tie_word_embeddings=True)
    return loaded(LlamaForCausalLM(config), "float32")


def test_limited_blocks_come_back(tmp_path: Path) -> None:
    folder, limited, whole = tmp_path / "c", wide(), wide()
    choices = uniform(limited, "nuq-3")
    write_checkpoint(folder, limited, choices, cache=tmp_path / "cache", most_block=256, **SETTINGS)
    quantize_in_place(limited, choices, most_block=256, **SETTINGS)
    quantize_in_place(whole, choices, cache=tmp_path / "cache", **SETTINGS)
    for packed in (False, True):
        torch.testing.assert_close(logits(load_checkpoint(folder, packed=packed)), logits(limited), rtol=0, atol=1e-5)
    assert not torch.equal(logits(limited), logits(whole)), "nor may the cache take one for the other"
    stored = json.loads((folder / "config.json").read_text())["quantization_config"]["rotation"]
    assert stored == {"seed": 3, "most_block": 256}
    name = "model.layers.0.mlp.down_proj"
    rotations = {
        leaf: load_checkpoint(folder, packed=True).model.get_submodule(leaf).rotation.block
        for leaf in (name, "model.layers.0.self_attn.o_proj")
    }
    assert rotations == {name: 256, "model.layers.0.self_attn.o_proj": 64}


def test_a_record_without_a_limit_has_none(tmp_path: Path) -> None:
    folder, whole = tmp_path / "c", wide()
    choices = uniform(whole, "nuq-3")
    write_checkpoint(folder, whole, choices, cache=None, **SETTINGS)
    content = json.loads((folder / "config.json").read_text())
    del content["quantization_config"]["rotation"]["most_block"]
    (folder / "config.json").write_text(json.dumps(content))
    assert read_config(folder)[1].most_block == 0
    quantize_in_place(whole, choices, **SETTINGS)
    assert torch.equal(logits(load_checkpoint(folder)), logits(whole))


def test_same_plan_same_bytes(tmp_path: Path) -> None:
    for out in ("a", "b"):
        model = tiny()
        write_checkpoint(tmp_path / out, model, mixed(model), cache=None, **SETTINGS)
    assert folder_hashes(tmp_path / "a") == folder_hashes(tmp_path / "b")


def test_layers_out_of_the_plan_are_fp16(tmp_path: Path) -> None:
    model = tiny()
    name = "model.layers.1.mlp.up_proj"
    choices = {name: LayerChoice(quantizer="nuq-2"), "lm_head": LayerChoice(quantizer="fp16")}
    report = write_checkpoint(tmp_path / "c", model, choices, cache=None, **SETTINGS)
    assert dict(zip(report.layer, report.quantizer, strict=True)) == {
        layer: "nuq-2" if layer == name else "fp16" for layer in [*linear_slots(model.model), "lm_head"]
    }


def test_reported_distortion_by_definition(tmp_path: Path) -> None:
    model = tiny()
    choices = mixed(model)
    report = write_checkpoint(tmp_path / "c", model, choices, cache=None, **SETTINGS)
    restored = linear_slots(load_checkpoint(tmp_path / "c").model)
    for row in report.itertuples():
        W, W_hat = linear_slots(model.model)[row.layer].weight.double(), restored[row.layer].weight.double()
        distortion = ((W - W_hat).square().sum() / W.square().sum()).item()  # a rotation keeps it
        assert row.distortion == pytest.approx(distortion, rel=1e-3), row.quantizer
    assert set(report.quantizer) == set(MIXED)


def test_dtype_of_loading(tmp_path: Path) -> None:
    model = tiny()
    write_checkpoint(tmp_path / "c", model, mixed(model), cache=None, **SETTINGS)
    full = logits(load_checkpoint(tmp_path / "c"))
    for packed in (False, True):
        half = load_checkpoint(tmp_path / "c", dtype=torch.bfloat16, packed=packed)
        assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
        torch.testing.assert_close(logits(half).float(), full, rtol=0, atol=0.05 * float(full.abs().max()))
