r"""GGUF files: quantized blocks dequantized to float32, under Hugging Face names and in Hugging Face's row order.

llama.cpp rotates neighbouring pairs (2i, 2i+1) of a head, Hugging Face the pairs (i, i + d/2). Its converter therefore
stores the rows of W_q and W_k of the llama architecture permuted, per head of d rows: stored row 2i + j is row
j d/2 + i of the original (j = 0, 1). `undo_rope_permutation` inverts it. Gemma's norms multiply by 1 + w; GGUF stores
1 + w, Hugging Face w."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import gguf
import torch

from quantizers.models.gguf_header import GgufTensor, read_header
from quantizers.models.gguf_metadata import MODEL_TYPES, ROPE_FACTORS, config_values, hf_name
from quantizers.models.gguf_tokenizer import build_tokenizer
from quantizers.models.source import WeightSource


@dataclass(frozen=True, slots=True)
class GgufFile(WeightSource):
    """One .gguf file, memory-mapped; a tensor is dequantized when it is asked for."""

    path: Path
    settings: Mapping[str, Any] = field(init=False)
    tensors: Mapping[str, GgufTensor] = field(init=False)  # by Hugging Face name
    rope_factors: torch.Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        header = read_header(self.path)
        architecture = header.settings.get("general.architecture")
        if architecture not in MODEL_TYPES:
            raise ValueError(
                f"{self.path.name}: GGUF architecture {architecture!r} is not supported; "
                f"supported: {', '.join(MODEL_TYPES)}"
            )
        stored = dict(header.tensors)
        factors = stored.pop(ROPE_FACTORS, None)
        object.__setattr__(self, "settings", header.settings)
        object.__setattr__(self, "rope_factors", None if factors is None else dequantize(factors))
        object.__setattr__(self, "tensors", {hf_name(name, architecture): t for name, t in stored.items()})

    @property
    def architecture(self) -> str:
        return str(self.settings["general.architecture"])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    @property
    def source_dtype(self) -> str:
        weights: Counter[str] = Counter()
        for tensor in self.tensors.values():
            weights[tensor.kind.name] += prod(tensor.shape)
        return f"GGUF {weights.most_common(1)[0][0]}"

    def tensor(self, name: str) -> torch.Tensor:
        weight = dequantize(self.tensors[name])
        if self.architecture in ("llama", "mistral") and ".self_attn.q_proj." in name:
            return undo_rope_permutation(weight, self.settings[f"{self.architecture}.attention.head_count"])
        if self.architecture in ("llama", "mistral") and ".self_attn.k_proj." in name:
            return undo_rope_permutation(weight, self.kv_heads)
        if self.architecture.startswith("gemma") and name.endswith("norm.weight"):
            return weight - 1
        return weight

    @property
    def kv_heads(self) -> int:
        heads = self.settings[f"{self.architecture}.attention.head_count"]
        return int(self.settings.get(f"{self.architecture}.attention.head_count_kv", heads))

    def model_type(self) -> str:
        return MODEL_TYPES[self.architecture]

    def config(self) -> Any:
        from transformers import AutoConfig

        if "model.embed_tokens.weight" not in self.tensors:
            raise ValueError(f"{self.path} lacks the tensor token_embd.weight")
        values = config_values(
            self.settings,
            vocab_size=self.tensors["model.embed_tokens.weight"].shape[0],
            tied="lm_head.weight" not in self.tensors,
            rope_factors=self.rope_factors,
        )
        if self.architecture == "qwen2":
            values["use_sliding_window"] = False
        return AutoConfig.for_model(self.model_type(), **values)

    def generation_config(self) -> Any | None:
        return None

    def tokenizer(self) -> Any | None:
        return build_tokenizer(self.settings)


def dequantize(tensor: GgufTensor) -> torch.Tensor:
    """float32 values of a stored tensor, (out, in), in memory of their own."""
    try:
        values = gguf.quants.dequantize(tensor.data, tensor.kind)
    except NotImplementedError as error:
        raise ValueError(f"tensor {tensor.name!r}: no reader for GGUF type {tensor.kind.name}") from error
    # float32 tensors come as a view of the read-only file
    return torch.from_numpy(values if values.flags.owndata and values.flags.writeable else values.copy())


def undo_rope_permutation(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of W_q or W_k (heads * d, ...) from llama.cpp's order to Hugging Face's: [i, j] -> [j, i] within a head."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, -1).transpose(1, 2).reshape(weight.shape)
