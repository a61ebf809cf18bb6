"""Squared gradients of layers, row by row, without ever holding the gradients of the whole model.

Layers are views onto parameters (a whole one, or one expert's slice of a 3-D one). While `squared_row_gradients` is
open the owning parameters collect gradients; as soon as a backward pass has finished one of them, a hook reduces its
gradient to the squared norms of the layers' rows, calls `reduce`, and drops it: the memory is that of one parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from alloc.sensitivity.table import Slots

Reduce = Callable[[str, torch.Tensor], None]


def owner(model: nn.Module, weight: torch.Tensor) -> nn.Parameter:
    """The parameter whose memory `weight` looks at. ValueError where there is none (a copy, not a view)."""
    for parameter in model.parameters():
        first = parameter.storage_offset()
        same = parameter.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
        if same and first <= weight.storage_offset() < first + parameter.numel():
            return parameter
    raise ValueError(f"a layer of shape {tuple(weight.shape)} is not a view of any parameter of the model")


@contextmanager
def squared_row_gradients(model: nn.Module, slots: Slots, reduce: Reduce) -> Iterator[None]:
    """Within the block, each backward pass calls `reduce(layer, (out,) squared norms of the gradient's rows, float32)`
    once per layer. Only the owning parameters require gradients meanwhile; all flags are restored after."""
    weights = {name: slot.weight for name, slot in slots.items()}
    views: dict[nn.Parameter, list[str]] = {}
    for name, weight in weights.items():
        views.setdefault(owner(model, weight), []).append(name)

    def on_gradient(parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        gradient = gradient.contiguous() if parameter.is_contiguous() else gradient
        assert gradient.stride() == parameter.stride()
        for name in views[parameter]:  # type: ignore[index]
            weight = weights[name]
            offset = gradient.storage_offset() + weight.storage_offset() - parameter.storage_offset()
            view = gradient.as_strided(weight.size(), weight.stride(), offset).float()
            reduce(name, torch.linalg.vecdot(view, view))
        parameter.grad = None

    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    hooks = []
    try:
        for parameter in flags:
            parameter.requires_grad_(parameter in views)
        hooks = [p.register_post_accumulate_grad_hook(on_gradient) for p in views]  # type: ignore[no-untyped-call]
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
