"""Tiny random models of every family, packed under one quantizer a fusion group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from checkpoint_models import SIZES, STATE_BITS, loaded
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache

from quantizers.checkpoint import LayerChoice, quantize_in_place
from quantizers.linear import QuantizedLinear
from quantizers.models import LoadedModel, linear_slots

GEMMA3 = {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
ARCHITECTURES: Mapping[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None, "tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 32, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 16, "sliding_window": 8},
    "gemma3_text": GEMMA3,
}
QUANTIZERS = {"qkv": "half-tcq-2.25", "o": "nuq-4", "gate_up": "tcq-3", "down": "int-4"}
VOCABULARY = SIZES["vocab_size"]


def tiny(architecture: str) -> LoadedModel:
    """Two blocks, the same weights every time; biases, where the family has them, are not zero."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SIZES, **ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return loaded(model, "bfloat16")


def packed(architecture: str, *units: str) -> LoadedModel:
    """The model with packed codes; units: members that every block fuses, `q_proj+k_proj`."""
    model = tiny(architecture)
    quantize_in_place(model, plan(model, *units), rotation_seed=3, state_bits=STATE_BITS, packed=True)
    return model


def plan(model: LoadedModel, *units: str) -> dict[str, LayerChoice]:
    """One quantizer a fusion group, with what is fused."""
    choices = {}
    for name, slot in linear_slots(model.model).items():
        holder, _, leaf = name.rpartition(".")
        unit = next((unit.split("+") for unit in units if leaf in unit.split("+")), [leaf])
        partners = tuple(f"{holder}.{other}" for other in unit if other != leaf)
        quantizer = QUANTIZERS[slot.fusion_group.rpartition(".")[2]]
        choices[name] = LayerChoice(quantizer=quantizer, fused_with=partners)
    return choices


def held_bytes(model: LoadedModel) -> int:
    """Bytes of the codes in the model, each storage counted once."""
    return sum(module.storage_bytes for module in model.model.modules() if isinstance(module, QuantizedLinear))


def decoded(model: LoadedModel, batch: int, kind: str) -> torch.Tensor:
    """Logits (batch, 12, vocabulary) of a prompt of 9 tokens and 3 more, one by one, with a dynamic or static cache."""
    tokens = torch.randint(0, VOCABULARY, (batch, 12), generator=torch.Generator().manual_seed(7))
    config = model.model.config
    cache = DynamicCache(config=config) if kind == "dynamic" else StaticCache(config=config, max_cache_len=16)
    found = []
    with torch.no_grad():
        for part in torch.split(tokens, [9, 1, 1, 1], dim=1):
            found.append(model.model(part, past_key_values=cache, use_cache=True).logits)
    return torch.cat(found, dim=1)
