r"""GGUF files: quantized blocks dequantized to float32, under Hugging Face names and in Hugging Face's row order.

llama.cpp rotates neighbouring pairs (2i, 2i+1) of a head, Hugging Face the pairs (i, i + d/2). Its converter therefore
stores the rows of W_q and W_k of the llama architecture permuted, per head of d rows: stored row 2i + j is row
j d/2 + i of the original (j = 0, 1). `undo_rope_permutation` inverts it. Gemma's norms multiply by 1 + w; GGUF stores
1 + w, Hugging Face w."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from quantizers.models.gguf_metadata import MODEL_TYPES, ROPE_FACTORS, config_values, hf_name
from quantizers.models.gguf_tokenizer import build_tokenizer
from quantizers.models.source import WeightSource


@dataclass(frozen=True, slots=True)
class GgufFile(WeightSource):
    """One .gguf file, memory-mapped; a tensor is dequantized when it is asked for."""

    path: Path
    metadata: dict[str, Any] = field(init=False)  # small values; arrays of tokens are parsed by the tokenizer
    tensors: dict[str, Any] = field(init=False)  # Hugging Face name -> gguf.ReaderTensor
    fields: dict[str, Any] = field(init=False)
    rope_factors: torch.Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        try:
            reader = gguf.GGUFReader(self.path)
        except (ValueError, IndexError, KeyError) as error:
            raise ValueError(f"{self.path} is damaged or no GGUF file: {error}") from error
        metadata = {
            key: entry.contents()
            for key, entry in reader.fields.items()
            if entry.types and entry.types[0] != gguf.GGUFValueType.ARRAY
        }
        architecture = metadata.get("general.architecture")
        if architecture not in MODEL_TYPES:
            raise ValueError(
                f"{self.path.name}: GGUF architecture {architecture!r} is not supported; "
                f"supported: {', '.join(MODEL_TYPES)}"
            )
        stored = {tensor.name: tensor for tensor in reader.tensors}
        factors = stored.pop(ROPE_FACTORS, None)
        object.__setattr__(self, "metadata", metadata)
        object.__setattr__(self, "fields", reader.fields)
        object.__setattr__(self, "rope_factors", None if factors is None else dequantize(factors))
        object.__setattr__(self, "tensors", {hf_name(name, architecture): t for name, t in stored.items()})

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    @property
    def source_dtype(self) -> str:
        weights: Counter[str] = Counter()
        for tensor in self.tensors.values():
            weights[tensor.tensor_type.name] += int(tensor.n_elements)
        return f"GGUF {weights.most_common(1)[0][0]}"

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def tensor(self, name: str) -> torch.Tensor:
        weight = dequantize(self.tensors[name])
        if self.architecture in ("llama", "mistral") and ".self_attn.q_proj." in name:
            return undo_rope_permutation(weight, self.metadata[f"{self.architecture}.attention.head_count"])
        if self.architecture in ("llama", "mistral") and ".self_attn.k_proj." in name:
            return undo_rope_permutation(weight, self.kv_heads)
        if self.architecture.startswith("gemma") and name.endswith("norm.weight"):
            return weight - 1
        return weight

    @property
    def kv_heads(self) -> int:
        heads = self.metadata[f"{self.architecture}.attention.head_count"]
        return int(self.metadata.get(f"{self.architecture}.attention.head_count_kv", heads))

    def model_type(self) -> str:
        return MODEL_TYPES[self.architecture]

    def config(self) -> Any:
        from transformers import AutoConfig

        if "model.embed_tokens.weight" not in self.tensors:
            raise ValueError(f"{self.path} lacks the tensor token_embd.weight")
        values = config_values(
            self.metadata,
            vocab_size=self.shape("model.embed_tokens.weight")[0],
            tied="lm_head.weight" not in self.tensors,
            rope_factors=self.rope_factors,
        )
        if self.architecture == "qwen2":
            values["use_sliding_window"] = False
        return AutoConfig.for_model(self.model_type(), **values)

    def generation_config(self) -> Any | None:
        return None

    def tokenizer(self) -> Any | None:
        return build_tokenizer(self.fields)


def dequantize(tensor: Any) -> torch.Tensor:
    """float32 values of a GGUF tensor in (out, in) order, in memory of their own."""
    try:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ValueError(f"tensor {tensor.name!r}: no reader for GGUF type {tensor.tensor_type.name}") from error
    return torch.from_numpy(np.array(values, dtype=np.float32))


def undo_rope_permutation(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of W_q or W_k (heads * d, ...) from llama.cpp's order to Hugging Face's: [i, j] -> [j, i] within a head."""
    half = weight.shape[0] // heads // 2
    return weight.unflatten(0, (heads, half, 2)).transpose(1, 2).flatten(0, 2).contiguous()
