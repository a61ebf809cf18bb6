"""A model of a config alone: parameters without memory, buffers (rotary frequencies) computed as ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Parameters made in here are on the meta device."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:  # a tied parameter stays the one that it is
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(module, name, param)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def empty_model(config: Any, dtype: torch.dtype) -> Any:
    """The architecture of a config of transformers."""
    from transformers import AutoModelForCausalLM

    with parameters_on_meta():
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def read_architecture(folder: str | Path) -> Any:
    """The config of a folder with config.json, never from a network. FileNotFoundError where there is none."""
    from transformers import AutoConfig

    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; a folder with the model's config.json is needed")
    return AutoConfig.from_pretrained(folder, local_files_only=True)
