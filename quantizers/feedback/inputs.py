r"""What the layers of a model read: a hook for every fusion group that hands over its inputs, chunk by chunk.

A linear's input is its module's; an embedding that is no head reads none, and is in no group here. An expert's inputs
are computed from those of the fused experts' module: gate and up read the tokens x that are routed to the expert, down
reads act(gate x) * (up x)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from quantizers.models import LinearSlot

# (fusion group, inputs (tokens, in), the tokens' positions in the window (tokens,))
Take = Callable[[str, torch.Tensor, torch.Tensor], None]


def group_sizes(slots: Mapping[str, LinearSlot]) -> dict[str, int]:
    """Fusion group -> number of inputs, in model order."""
    return {slot.fusion_group: slot.weight.shape[1] for slot in slots.values() if slot.multiplies}


@contextmanager
def group_inputs(model: nn.Module, slots: Mapping[str, LinearSlot], groups: set[str], take: Take) -> Iterator[None]:
    """Within the block every forward of the model (one window) calls `take` for each of the groups."""
    handles = []
    hooked: set[str] = set()
    for name, slot in slots.items():
        if slot.fusion_group not in groups or slot.fusion_group in hooked:
            continue
        hooked.add(slot.fusion_group)
        if slot.index == ():
            hook = linear_hook(slot.fusion_group, take)
            handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    for path, members in experts(slots, groups).items():
        handles.append(model.get_submodule(path).register_forward_pre_hook(experts_hook(members, take)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def linear_hook(group: str, take: Take) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook on a linear, which is called with (1, tokens, in)."""

    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = arguments[0].reshape(-1, arguments[0].shape[-1])
        take(group, x, torch.arange(len(x), device=x.device))

    return hook


def experts(slots: Mapping[str, LinearSlot], groups: set[str]) -> dict[str, list[tuple[int, str, str]]]:
    """Module of fused experts -> (expert, fusion group, gate_up or down) of those wanted."""
    found: dict[str, list[tuple[int, str, str]]] = {}
    for name, slot in slots.items():
        if slot.index == () or slot.fusion_group not in groups:
            continue
        path, expert, _ = name.rsplit(".", 2)
        member = (int(expert), slot.fusion_group, slot.fusion_group.rsplit(".", 1)[1])
        if member not in found.setdefault(path, []):
            found[path].append(member)
    return found


def experts_hook(members: list[tuple[int, str, str]], take: Take) -> Callable[[Any, tuple[Any, ...]], None]:
    """A hook on a module of fused experts, which is called with x (tokens, in) and experts (tokens, chosen)."""

    def hook(module: Any, arguments: tuple[Any, ...]) -> None:
        x, chosen = arguments[0], arguments[1]
        for expert, group, part in members:
            tokens = (chosen == expert).any(dim=-1).nonzero()[:, 0]
            inputs = x[tokens]
            if part == "down":
                gate, up = functional.linear(inputs, module.gate_up_proj[expert]).chunk(2, dim=-1)
                inputs = module.act_fn(gate) * up
            take(group, inputs, tokens)

    return hook
