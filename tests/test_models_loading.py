"""Loading: for every family the same logits as transformers' own loading; what is wrong with a file is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quantizers.models import FAMILIES, inventory, linear_slots, load_model

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
GEMMA = {"head_dim": 8, "tie_word_embeddings": True}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}),
    "mistral": ("MistralConfig", {"sliding_window": 8, "head_dim": 8}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma": ("GemmaConfig", GEMMA),
    "gemma2": ("Gemma2Config", {**GEMMA, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3TextConfig", {**GEMMA, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("Qwen2MoeConfig", {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 40}),
    "qwen3_moe": ("Qwen3MoeConfig", {**EXPERTS, "num_experts": 4, "head_dim": 8, "mlp_only_layers": [1]}),
}
TOKENS = torch.arange(40).reshape(2, 20) % 96


def make(folder: Path, family: str, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint of `family` with random weights, norms and biases included."""
    name, changes = CONFIGS[family]
    config = getattr(transformers, name)(**SIZES | changes)
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: make(tmp_path_factory.mktemp(family), family) for family in CONFIGS}


@pytest.fixture
def llama(tmp_path: Path, checkpoints: dict[str, Path]) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(checkpoints["llama"], tmp_path / "llama"))


def damage(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, values in changes.items():
        if values is None:
            del tensors[name]
        else:
            tensors[name] = values
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_every_text_family_is_tested() -> None:
    assert set(CONFIGS) == set(FAMILIES) - {"gemma3"}  # images and text: below


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_equal_those_of_transformers(family: str, checkpoints: dict[str, Path]) -> None:
    loaded = load_model(str(checkpoints[family]))
    expected = AutoModelForCausalLM.from_pretrained(checkpoints[family], dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded.model(TOKENS).logits, expected(TOKENS).logits)
    assert loaded.source_dtype == "float32"
    assert loaded.tokenizer is None
    assert not loaded.model.training
    assert not any(p.requires_grad or p.is_meta for p in loaded.model.parameters())
    assert not any(b.is_meta for b in loaded.model.buffers())


@pytest.mark.parametrize("family", CONFIGS)
def test_slots_are_live_views(family: str, checkpoints: dict[str, Path]) -> None:
    model = load_model(str(checkpoints[family])).model
    for slot in linear_slots(model).values():
        before = {name: p.clone() for name, p in model.named_parameters()}
        slot.weight.mul_(2)
        changed = {name: (p != before[name]).sum() for name, p in model.named_parameters()}
        assert sum(count > 0 for count in changed.values()) == 1, slot.name
        assert sum(changed.values()) == (slot.weight != 0).sum(), slot.name


@pytest.mark.parametrize("family", CONFIGS)
def test_expert_and_linear_layers_are_what_the_file_holds(family: str, checkpoints: dict[str, Path]) -> None:
    slots = linear_slots(load_model(str(checkpoints[family])).model)
    stored = load_file(checkpoints[family] / "model.safetensors")
    mixtral = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    for name, slot in slots.items():
        file_name = name
        if family == "mixtral" and ".experts." in name:
            stem, _, part = name.replace(".mlp.", ".block_sparse_moe.").rpartition(".")
            file_name = f"{stem}.{mixtral[part]}"
        assert torch.equal(slot.weight, stored[f"{file_name}.weight"]), name


@pytest.mark.parametrize("family", CONFIGS)
def test_inventory_counts_every_matrix_but_the_routers(family: str, checkpoints: dict[str, Path]) -> None:
    model = load_model(str(checkpoints[family])).model
    frame = inventory(model)
    routers = ("mlp.gate.weight", "shared_expert_gate.weight")
    matrices = [p for name, p in model.named_parameters() if p.dim() >= 2 and not name.endswith(routers)]
    assert (frame["out_features"] * frame["in_features"]).sum() == sum(p.numel() for p in matrices)
    assert frame["layer"].is_unique
    assert frame["sensitivity"].isna().all()
    assert frame["layer"].iloc[0] == "model.embed_tokens"
    assert ("lm_head" in set(frame["layer"])) == (not model.config.tie_word_embeddings)


@pytest.mark.parametrize("family", CONFIGS)
def test_members_of_a_fusion_group_read_the_same_input(family: str, checkpoints: dict[str, Path]) -> None:
    model = load_model(str(checkpoints[family])).model
    inputs: dict[str, int] = {}
    hooks = []
    for name, slot in linear_slots(model).items():
        if ".experts." not in name:
            module = model.get_submodule(name)
            hooks.append(module.register_forward_pre_hook(lambda _, x, n=name: inputs.update({n: x[0].data_ptr()})))
        assert slot.fusion_group.startswith(name.rpartition(".")[0])
    model(TOKENS)
    groups: dict[str, set[int]] = {}
    for name, pointer in inputs.items():
        groups.setdefault(linear_slots(model)[name].fusion_group, set()).add(pointer)
    assert all(len(pointers) == 1 for pointers in groups.values())
    assert any(name.endswith(".self_attn.qkv") for name in groups)


def test_experts_fuse_only_their_own_gate_and_up(checkpoints: dict[str, Path]) -> None:
    frame = inventory(load_model(str(checkpoints["mixtral"])).model)
    experts = frame[frame["layer"].str.contains("experts")]
    for group, members in experts.groupby("fusion_group"):
        last = [name.removeprefix(str(group).rpartition(".")[0] + ".") for name in members["layer"]]
        assert last == (["down_proj"] if str(group).endswith(".down") else ["gate_proj", "up_proj"])
    assert len(experts) == 2 * 4 * 3


def test_sharded_checkpoint_in_bfloat16(tmp_path: Path) -> None:
    folder = make(tmp_path, "llama", torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, name in enumerate(tensors):
        shard = f"model-{number % 2}.safetensors"
        weight_map[name] = shard
    for shard in set(weight_map.values()):
        save_file({n: t for n, t in tensors.items() if weight_map[n] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    loaded = load_model(str(folder), dtype=torch.bfloat16)
    assert loaded.source_dtype == "bfloat16"
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(loaded.model(TOKENS).logits, expected(TOKENS).logits)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-1\.safetensors"):
        load_model(str(folder))


def test_the_language_model_of_an_image_model(tmp_path: Path) -> None:
    text = transformers.Gemma3TextConfig(**SIZES | CONFIGS["gemma3_text"][1])
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(loaded.model(TOKENS).logits, whole(TOKENS).logits)
    assert len(linear_slots(loaded.model)) == 2 * 7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(llama: Path, value: float) -> None:
    weight = torch.randn(32, 32)
    weight[3, 4] = value
    damage(llama, {"model.layers.1.self_attn.o_proj.weight": weight})
    with pytest.raises(ValueError, match=r"'model\.layers\.1\.self_attn\.o_proj\.weight' holds 1 NaN or infinite"):
        load_model(str(llama))


def test_a_missing_tensor_is_named(llama: Path) -> None:
    damage(llama, {"model.layers.0.mlp.up_proj.weight": None})
    with pytest.raises(ValueError, match=r"lacks 1 tensors.*'model\.layers\.0\.mlp\.up_proj\.weight'"):
        load_model(str(llama))


def test_a_missing_expert_is_noticed(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    folder = Path(shutil.copytree(checkpoints["qwen3_moe"], tmp_path / "moe"))
    damage(folder, {"model.layers.0.mlp.experts.2.up_proj.weight": None})
    with pytest.raises(ValueError, match=r"model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        load_model(str(folder))


def test_a_misshapen_tensor_is_named(llama: Path) -> None:
    damage(llama, {"model.norm.weight": torch.ones(31)})
    with pytest.raises(ValueError, match=r"'model\.norm\.weight' has shape \(31,\), the model's is \(32,\)"):
        load_model(str(llama))


def test_integers_are_no_weights(llama: Path) -> None:
    damage(llama, {"model.norm.weight": torch.ones(32, dtype=torch.int8)})
    with pytest.raises(ValueError, match=r"'model\.norm\.weight' is stored as I8"):
        load_model(str(llama))


def test_a_truncated_file_is_named(llama: Path) -> None:
    content = (llama / "model.safetensors").read_bytes()
    (llama / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(str(llama))


def test_an_unknown_family_lists_the_known(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of"}))
    with pytest.raises(ValueError, match="'unheard_of' is not supported; supported: llama, mistral"):
        load_model(str(llama))


def test_a_quantized_checkpoint_is_refused(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ValueError, match=r"quantized already \(gptq\)"):
        load_model(str(llama))


def test_an_untied_head_beside_a_tying_config_is_kept(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    folder = Path(shutil.copytree(checkpoints["qwen2"], tmp_path / "qwen2"))
    head = torch.randn(96, 32)
    damage(folder, {"lm_head.weight": head})
    model = load_model(str(folder)).model
    assert torch.equal(model.lm_head.weight, head)
    assert not torch.equal(model.model.embed_tokens.weight, head)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(model(TOKENS).logits, expected(TOKENS).logits)
