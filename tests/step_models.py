"""Tiny configs of the families that have a lean step, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from quantizers.kernels.random_model import block_layers, random_model
from quantizers.kernels.random_plan import read_plan

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16, "rope_theta": 10000.0}  # fmt: skip
CONFIGS: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES, **HEADS, rope_parameters=LLAMA3),
    "llama-biased": lambda: LlamaConfig(**SIZES, **HEADS, attention_bias=True, mlp_bias=True),
    "mistral": lambda: MistralConfig(**SIZES, **HEADS),
    "qwen2": lambda: Qwen2Config(**SIZES, **HEADS, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SIZES, **HEADS, head_dim=32),
}


def tiny(name: str, plan: str, *, head: str = "fp16", dtype: torch.dtype = torch.float32) -> nn.Module:
    """Random weights on the CPU, the same every time."""
    config: Any = CONFIGS[name]()
    generator = torch.Generator().manual_seed(1)
    return random_model(config, read_plan(plan, block_layers(config)), head=head, dtype=dtype, generator=generator)
