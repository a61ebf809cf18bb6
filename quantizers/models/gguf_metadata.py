r"""GGUF metadata -> model config, and GGUF tensor names -> Hugging Face names.

GGUF (github.com/ggml-org/ggml/blob/master/docs/gguf.md) keeps a model's settings under `ARCHITECTURE.*`. What it does
not keep (Gemma's query scale) follows the rules of llama.cpp's converter. Llama 3.1 rescales the rotary frequencies
theta_i by a piecewise rule of one factor; GGUF stores the resulting divisors, from which the rule is recovered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

# architecture of the file -> model_type
MODEL_TYPES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma 2 and 3 have four norms a block, and their feed-forward norm stands before the feed-forward part
SANDWICH = BLOCK_NAMES | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
ROPE_FACTORS = "rope_freqs.weight"


def hf_name(name: str, architecture: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; ValueError for an unknown tensor."""
    blocks = SANDWICH if architecture in ("gemma2", "gemma3") else BLOCK_NAMES
    match = re.fullmatch(r"(?:blk\.(?P<block>\d+)\.)?(?P<stem>\w+)\.(?P<kind>weight|bias)", name)
    table = WHOLE if match is None or match["block"] is None else blocks
    if match is None or match["stem"] not in table:
        raise ValueError(f"unknown tensor {name!r} in a GGUF file of architecture {architecture!r}")
    prefix = "" if match["block"] is None else f"model.layers.{match['block']}."
    return f"{prefix}{table[match['stem']]}.{match['kind']}"


def config_values(
    metadata: Mapping[str, Any], *, vocab_size: int, tied: bool, rope_factors: torch.Tensor | None
) -> dict[str, Any]:
    """Keyword arguments of the family's config. ValueError names a missing or unsupported setting."""
    architecture = metadata["general.architecture"]

    def value(key: str, default: Any = None) -> Any:
        found = metadata.get(f"{architecture}.{key}", default)
        if found is None:
            raise ValueError(f"the GGUF file lacks {architecture}.{key}")
        if isinstance(found, list):
            raise ValueError(f"{architecture}.{key} differs from block to block; accepted: one value for all blocks")
        return found

    if metadata.get(f"{architecture}.expert_count"):
        raise ValueError(
            f"GGUF files of mixtures of experts are not read ({architecture}); give the safetensors folder"
        )
    heads, hidden = value("attention.head_count"), value("embedding_length")
    head_dim = value("attention.key_length", value("rope.dimension_count", hidden // heads))
    values = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": tied,
        **special_tokens(metadata),
    }
    theta = float(value("rope.freq_base", 10000.0))
    rope = rope_scaling(metadata, architecture, theta=theta, head_dim=head_dim, factors=rope_factors)
    if architecture == "qwen2":
        del values["head_dim"]  # always hidden_size / heads
    if architecture in ("gemma2", "gemma3"):
        values["sliding_window"] = value("attention.sliding_window")
        values["query_pre_attn_scalar"] = query_scale(architecture, values)
    if architecture == "gemma2":
        values["attn_logit_softcapping"] = value("attn_logit_softcapping", 50.0)
        values["final_logit_softcapping"] = value("final_logit_softcapping", 30.0)
    if architecture == "gemma3":
        # blocks with a sliding window keep short-range frequencies [Gemma 3 report, arXiv 2503.19786]
        local = float(value("rope.freq_base_swa", 10000.0))
        sliding = {"rope_type": "default", "rope_theta": local}
        values["rope_parameters"] = {"full_attention": rope, "sliding_attention": sliding}
    else:
        values["rope_parameters"] = rope
    return values


def special_tokens(metadata: Mapping[str, Any]) -> dict[str, int | None]:
    """Ids of the begin, end and padding tokens; None where the file has none (never the default of the family)."""
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}


def query_scale(architecture: str, values: Mapping[str, Any]) -> int:
    """Gemma divides q k by the root of the head's size, except the two 27B models: hidden_size / heads."""
    blocks_of_27b = {"gemma2": 46, "gemma3": 62}[architecture]
    if values["num_hidden_layers"] == blocks_of_27b:
        return int(values["hidden_size"] // values["num_attention_heads"])
    return int(values["head_dim"])


def rope_scaling(
    metadata: Mapping[str, Any], architecture: str, *, theta: float, head_dim: int, factors: torch.Tensor | None
) -> dict[str, Any]:
    """transformers' rope_parameters: default, linear, or Llama 3.1's rule where the file stores divisors."""
    if factors is not None:
        return llama3_rope(factors, theta=theta, head_dim=head_dim)
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "linear":
        factor = float(metadata[f"{architecture}.rope.scaling.factor"])
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind != "none":
        raise ValueError(f"{architecture}.rope.scaling.type is {kind!r}; accepted: none, linear, Llama 3.1's divisors")
    return {"rope_type": "default", "rope_theta": theta}


def llama3_rope(divisors: torch.Tensor, *, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3.1's rule whose divisors these are, (head_dim / 2,): 1 at wavelengths below 8192 / 4, the factor above
    8192, and 1 / ((1 - s) / factor + s) with s = (8192 / wavelength - 1) / 3 between. ValueError if they are not."""
    context, low, high = 8192, 1.0, 4.0
    factor = float(divisors.max())
    wavelength = 2 * torch.pi * theta ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    smooth = ((context / wavelength - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if divisors.shape != expected.shape or not torch.allclose(divisors.double(), expected, rtol=1e-4):
        raise ValueError(f"{ROPE_FACTORS} follows no rule that is known: {divisors.tolist()[:8]} ...")
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }
