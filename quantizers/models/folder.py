"""A Hugging Face folder: config.json, the tokenizer, and one safetensors file or a sharded index."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from quantizers.models.source import WeightSource

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
# the floating types of a plain checkpoint; float8 and integers need scales that only their own format explains
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class SafetensorsFolder(WeightSource):
    """`folder` with config.json and safetensors; a tensor is read when it is asked for."""

    folder: Path
    files: dict[str, Any] = field(init=False)  # tensor name -> open file

    def __post_init__(self) -> None:
        files: dict[str, Any] = {}
        for path in shard_paths(self.folder):
            shard = open_shard(path)
            files |= dict.fromkeys(shard.keys(), shard)
        object.__setattr__(self, "files", files)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    @property
    def source_dtype(self) -> str:
        weights: Counter[str] = Counter()
        for name in self.files:
            weights[self.dtype(name)] += prod(self.shape(name))
        return weights.most_common(1)[0][0]

    def dtype(self, name: str) -> str:
        """torch's name of the stored type; ValueError for a type that is not a plain float."""
        stored = self.files[name].get_slice(name).get_dtype()
        if stored not in DTYPES:
            raise ValueError(f"tensor {name!r} is stored as {stored}; accepted: {', '.join(DTYPES)}")
        return DTYPES[stored]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.files[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        self.dtype(name)
        return self.files[name].get_tensor(name).clone()  # the file may change under its mapping

    def model_type(self) -> str:
        content = read_json(self.folder / "config.json")
        if quantization := content.get("quantization_config"):
            method = quantization.get("quant_method", "unknown")
            raise ValueError(f"{self.folder} is quantized already ({method}); give the original checkpoint")
        return str(content.get("model_type"))

    def config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.folder, local_files_only=True)

    def generation_config(self) -> Any | None:
        from transformers import GenerationConfig

        if not (self.folder / "generation_config.json").is_file():
            return None
        return GenerationConfig.from_pretrained(self.folder, local_files_only=True)

    def tokenizer(self) -> Any | None:
        from transformers import AutoTokenizer

        if not any((self.folder / name).is_file() for name in TOKENIZER_FILES):
            return None
        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)


def shard_paths(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, each existing; FileNotFoundError says what is missing."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; a model folder has config.json and *.safetensors")
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map", {})
        paths = [folder / name for name in sorted(set(weight_map.values()))]
    elif (folder / SINGLE).is_file():
        paths = [folder / SINGLE]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    missing = [path.name for path in paths if not path.is_file()]
    if missing or not paths:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing) or SINGLE} (only safetensors are read, no pickles)"
        )
    return paths


def open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content
