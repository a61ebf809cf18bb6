r"""How much each token counts in H = sum_t w_t x_t x_t' / sum_t w_t.

`Uniform`: w = 1. `AttentionConcentration` (RSQ, Sung et al., 2025, arXiv 2503.01820, "AttnCon"): a token that others
attend to matters more. Its score in a block is the attention that it receives, over heads and queries,

    s_j = sum_h sum_i A_hij,      r = floor + (1 - floor) (s - min s) / (max s - min s),      w = r^2,

because RSQ scales the inputs themselves, H = X diag(r^2) X'. Later tokens have fewer queries to receive from. A head
reads what nobody attends to: w = 1. Costs a second forward of each window, with attention computed in full."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from quantizers.models import LinearSlot

ATTENTION = "self_attn"


class TokenWeights(ABC):
    """Implementations are frozen dataclasses, their settings."""

    name: ClassVar[str]

    @abstractmethod
    def settings(self) -> dict[str, str | float]:
        """What decides the weights, JSON-able."""

    @abstractmethod
    def measure(
        self, model: nn.Module, slots: Mapping[str, LinearSlot], window: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Fusion group -> w (T,) float32, not negative, of the tokens of a window (T,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform(TokenWeights):
    """All tokens alike."""

    name: ClassVar[str] = "uniform"

    def settings(self) -> dict[str, str | float]:
        return {"tokens": self.name}

    def measure(
        self, model: nn.Module, slots: Mapping[str, LinearSlot], window: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return {slot.fusion_group: torch.ones(len(window)) for slot in slots.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConcentration(TokenWeights):
    """`floor`: r of the token that receives least, in (0, 1]."""

    floor: float = 0.01

    name: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor is in (0, 1], not {self.floor}")

    def settings(self) -> dict[str, str | float]:
        return {"tokens": self.name, "floor": self.floor}

    @torch.no_grad()
    def measure(
        self, model: nn.Module, slots: Mapping[str, LinearSlot], window: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """ValueError where a block has no attention module that can give its weights."""
        received = attention_received(model, window)
        weights = {slot.fusion_group: torch.ones(len(window)) for slot in slots.values() if not slot.in_block}
        for group in {slot.fusion_group for slot in slots.values() if slot.in_block}:
            prefix = next((path for path in received if group.startswith(f"{path}.")), None)
            if prefix is None:
                raise ValueError(f"{group} is in no block with {ATTENTION}, which token weights by attention need")
            s = received[prefix]
            spread = (s - s.min()) / (s.max() - s.min()).clamp_min(1e-30)
            weights[group] = (self.floor + (1 - self.floor) * spread).square()
        return weights


def attention_received(model: Any, window: torch.Tensor) -> dict[str, torch.Tensor]:
    """Block -> (T,) float32: sum over heads and queries of the attention to each token of a window (T,)."""
    received: dict[str, torch.Tensor] = {}
    handles = []

    def hook(path: str, output: Any) -> None:
        received[path] = output[1][0].sum(dim=(0, 1)).float().cpu()  # (heads, queries, keys)

    for path, module in model.named_modules():
        if path.endswith(f".{ATTENTION}"):
            block = path.removesuffix(f".{ATTENTION}")
            handles.append(module.register_forward_hook(lambda _, __, output, block=block: hook(block, output)))
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")  # the others never form the weights
        model(input_ids=window[None].to(next(model.parameters()).device), use_cache=False)
    finally:
        model.set_attn_implementation(before)
        for handle in handles:
            handle.remove()
    return received
