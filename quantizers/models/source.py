"""What every origin of weights gives: names, and one tensor at a time, so that a model never exists twice in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch


class WeightSource(ABC):
    """Weights on disk under Hugging Face names. Tensors are in the orientation of `nn.Linear`: (out, in)."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, in the order of the file."""

    @property
    @abstractmethod
    def source_dtype(self) -> str:
        """How most of the weights are stored: `bfloat16`, `GGUF Q4_1`."""

    @abstractmethod
    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, read now, on the CPU, in the dtype of the file (float32 where the file is quantized), and in
        memory of its own: the caller may keep it and write into it."""

    @abstractmethod
    def model_type(self) -> str:
        """The family's name, as in `config.json`."""

    @abstractmethod
    def config(self) -> Any:
        """The `PreTrainedConfig`. Called only for a supported `model_type`."""

    @abstractmethod
    def generation_config(self) -> Any | None:
        """The `GenerationConfig` that comes with the weights, or None."""

    @abstractmethod
    def tokenizer(self) -> Any | None:
        """The tokenizer that comes with the weights, or None."""
