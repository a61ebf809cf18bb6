"""The rest of a token: the time of a decoding step without its linear layers, of a config alone.

A model of random weights is built from config.json, every layer that may be quantized replaced by one that hands out
a buffer and does nothing, and one step (batch sequences, one token each, `context` tokens in a static cache) captured
as a CUDA graph: embedding, norms, rotary, attention, the activation, the head in 16 bits. The rotation of the inputs of
quantized layers is not in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, StaticCache

from quantizers.kernels.chain import graphed, microseconds
from quantizers.models import linear_slots

STEPS = 15  # timed replays


class Absent(nn.Module):
    """A linear layer that takes no time: its output is a buffer of random numbers."""

    def __init__(self, out_features: int, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.out_features = out_features
        self.register_buffer("output", torch.randn(tokens, out_features, device=device).to(dtype), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, 1, in) -> (batch, 1, out)."""
        return self.get_buffer("output").view(*x.shape[:-1], self.out_features)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Parameters made in here take no memory; buffers (rotary frequencies) are computed as ever."""
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


def without_linears(config: PreTrainedConfig, batch: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model of random weights, its quantizable layers absent. ValueError for a family that is not supported, or
    whose layers are slices of experts."""
    with parameters_on_meta():
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, slot in linear_slots(model).items():
        if slot.index:
            raise ValueError(f"{name} is part of a tensor of experts: the rest of a token is measured for dense models")
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, Absent(slot.parameter.shape[0], batch, dtype, device))
    drawn: dict[int, nn.Parameter] = {}  # a tied weight is one parameter
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in drawn:
                values = torch.randn(parameter.shape, device=device).mul_(0.02).to(dtype)
                drawn[id(parameter)] = nn.Parameter(values, requires_grad=False)
            module.register_parameter(key, drawn[id(parameter)])
    return model.to(device).eval()


def step(
    model: nn.Module, config: PreTrainedConfig, batch: int, context: int, device: torch.device
) -> Callable[[], object]:
    """One token for each of `batch` sequences that have `context` - 1 in their static cache."""
    cache = StaticCache(config=config, max_cache_len=context)
    tokens = torch.randint(0, config.get_text_config().vocab_size, (batch, 1), device=device)
    place = torch.full((batch, 1), context - 1, device=device)

    def work() -> object:
        with torch.no_grad():
            return model(
                input_ids=tokens, position_ids=place, cache_position=place[0], past_key_values=cache, use_cache=True
            ).logits

    return work


def rest_microseconds(folder: str, batch: int, context: int, device: torch.device) -> list[float]:
    """Of one step, in each of several replays. folder: of config.json, or a hub id."""
    config = AutoConfig.from_pretrained(folder)
    model = without_linears(config, batch, device, torch.float16)
    return microseconds(graphed(step(model, config, batch, context, device)), STEPS)
