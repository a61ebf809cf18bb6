"""Tiny random models and plans for the tests of checkpoints."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from quantizers.checkpoint import LayerChoice
from quantizers.models import LoadedModel, linear_slots

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
MIXED = ("nuq-3", "int-4", "vq-1.5", "fp16", "tcq-2", "half-tcq-2.25", "nuq-2", "tcq-3")
STATE_BITS = 8


def tiny(source_dtype: str = "float32", *, tied: bool = True) -> LoadedModel:
    """A Llama of two blocks; the same weights every time."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    return loaded(model, source_dtype)


def tiny_with_biases() -> LoadedModel:
    """A Qwen2, whose q, k and v have biases."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return loaded(model, "bfloat16")


def tiny_experts() -> LoadedModel:
    """A Qwen3 with four experts in each block, stored as fused parameters."""
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
    return loaded(Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **experts, tie_word_embeddings=False)), "bfloat16")


def loaded(model: torch.nn.Module, source_dtype: str) -> LoadedModel:
    model.eval().requires_grad_(False)
    return LoadedModel(model=model, tokenizer=None, path=Path(), source_dtype=source_dtype)


def mixed(model: LoadedModel, names: tuple[str, ...] = MIXED) -> dict[str, LayerChoice]:
    """All quantizers in turn over the layers."""
    slots = linear_slots(model.model)
    return {name: LayerChoice(quantizer=names[i % len(names)]) for i, name in enumerate(slots)}


def uniform(model: LoadedModel, quantizer: str) -> dict[str, LayerChoice]:
    return {name: LayerChoice(quantizer=quantizer) for name in linear_slots(model.model)}


def logits(model: LoadedModel) -> torch.Tensor:
    """(2, 24, vocabulary) on fixed tokens."""
    tokens = torch.randint(0, SIZES["vocab_size"], (2, 24), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model.model(tokens).logits


def folder_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
