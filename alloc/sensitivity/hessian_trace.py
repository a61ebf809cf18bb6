r"""Sensitivity from the Hessian of the loss on text (HAWQ-V2, Dong et al., 2020, arXiv 1911.03852).

Noise E on layer l with independent entries of variance t |w_i|^2 / in (row i) raises the loss by a t + O(t^2) with

    a_l = 1/2 sum_i |w_i|^2 / in  sum_j  d^2 loss / dW_ij^2,

a weighted trace of the layer's block of the Hessian. Hutchinson's estimator (1990, doi:10.1080/03610919008812866): for
v_ij = +-1 times |w_i| / sqrt(in), E v' H v is that trace; one product H v with v on all layers serves every layer, v_l
being independent between layers. Unlike Fisher's, the Hessian of the loss is not positive: an estimate below 0 is
written as 0, since no layer gains from noise in the mean.

Cost: a backward pass through a backward pass a draw, about seven forwards and the memory of all gradients twice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alloc.sensitivity.gradients import owner
from alloc.sensitivity.table import Progress, Slots, require_slots, require_windows, sensitivity_table


@dataclass(frozen=True, slots=True, kw_only=True)
class HessianTrace:
    """`draws` products H v, one on each of the first windows, cut to `tokens`."""

    name: ClassVar[str] = "hessian_trace"
    draws: int = 8
    tokens: int = 256

    def __post_init__(self) -> None:
        if self.draws < 2 or self.tokens < 2:
            raise ValueError(f"hessian_trace needs draws >= 2 and tokens >= 2, not {self}")

    def measure(
        self,
        model: nn.Module,
        slots: Slots,
        windows: torch.Tensor,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """windows: (count, T) token ids. ValueError where there are fewer than `draws`."""
        require_slots(slots)
        require_windows(windows)
        if len(windows) < self.draws:
            raise ValueError(
                f"hessian_trace takes {self.draws} draws on windows of their own, there are {len(windows)}"
            )
        owners = list(dict.fromkeys(owner(model, slot.weight) for slot in slots.values()))
        flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        draws = []
        try:
            for parameter in flags:
                parameter.requires_grad_(any(parameter is own for own in owners))
            for window in windows[: self.draws, : self.tokens]:
                draws.append(curvatures(model, slots, owners, window, generator))
                if progress is not None:
                    progress(len(draws), self.draws, self.name)
        finally:
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)
        values = torch.tensor(draws, dtype=torch.float64)  # (draws, layers)
        error = values.std(dim=0) / math.sqrt(len(values))
        return sensitivity_table(slots, values.mean(dim=0).clamp(min=0.0).tolist(), error.tolist(), self.name)


def curvatures(
    model: nn.Module, slots: Slots, owners: list[nn.Parameter], window: torch.Tensor, generator: torch.Generator
) -> list[float]:
    """1/2 v_l' (H v)_l of every layer, one draw of v; window: (T,)."""
    tokens = window.to(owners[0].device)
    # the fused attention kernels have no second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        logits = model(input_ids=tokens[None], use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1].float(), tokens[1:])
        gradients = torch.autograd.grad(loss, owners, create_graph=True)
        directions = [torch.zeros_like(parameter) for parameter in owners]
        parts: dict[str, tuple[int, torch.Tensor]] = {}
        for name, slot in slots.items():
            at = next(i for i, parameter in enumerate(owners) if parameter is owner(model, slot.weight))
            v = same_view(directions[at], owners[at], slot.weight)
            v.copy_(direction(slot.weight, generator))
            parts[name] = (at, v)
        slope = sum((g * v).sum() for g, v in zip(gradients, directions, strict=True))
        products = torch.autograd.grad(slope, owners)  # type: ignore[arg-type]
    return [
        0.5 * (v.double() * same_view(products[at], owners[at], slots[name].weight).double()).sum().item()
        for name, (at, v) in parts.items()
    ]


def direction(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(out, in): random signs times |w_i| / sqrt(in)."""
    signs = torch.randint(0, 2, weight.shape, generator=generator, device=generator.device).mul_(2).sub_(1)
    scale = weight.float().norm(dim=1, keepdim=True) / math.sqrt(weight.shape[1])
    return signs.to(weight.device) * scale


def same_view(tensor: torch.Tensor, parameter: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The part of `tensor`, which is shaped and laid out as `parameter`, at which `weight` looks in `parameter`."""
    tensor = tensor.contiguous() if parameter.is_contiguous() else tensor
    assert tensor.stride() == parameter.stride()
    offset = tensor.storage_offset() + weight.storage_offset() - parameter.storage_offset()
    return tensor.as_strided(weight.size(), weight.stride(), offset)
