r"""What a model holds besides its layers: norms, biases, routers, and embedding and head where they are no layers.

Stored in 16 bits: bfloat16 where the source was, else float16. One-dimensional tensors (norms, biases: a few kilobytes)
stay float32, others that are not floating as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from quantizers.linear import QuantizedLinear
from quantizers.models import LinearSlot


def other_tensors(model: Any, slots: Iterable[LinearSlot]) -> dict[str, torch.Tensor]:
    """Live parameters and persistent buffers outside the layers, by name; a tied one once, under its first name."""
    layers = {id(slot.parameter) for slot in slots}
    stored = model.state_dict(keep_vars=True)
    tensors = {name: p.detach() for name, p in model.named_parameters() if id(p) not in layers}
    packed = {id(b) for module in model.modules() if isinstance(module, QuantizedLinear) for b in module.buffers()}
    return tensors | {n: b for n, b in model.named_buffers() if n in stored and id(b) not in packed}


def rounded(name: str, tensor: torch.Tensor, source_dtype: str) -> torch.Tensor:
    """The tensor as it is stored, on the CPU. ValueError, naming it, where a value exceeds float16 or is not finite."""
    if not tensor.is_floating_point():
        return tensor.cpu()
    if tensor.ndim <= 1:
        dtype = torch.float32
    else:
        dtype = torch.bfloat16 if source_dtype == "bfloat16" else torch.float16
    stored = tensor.to("cpu", dtype)
    if not bool(torch.isfinite(stored).all()):
        peak = float(tensor.abs().max())
        raise ValueError(f"tensor {name!r} holds values up to {peak:g}, which {dtype} cannot store")
    return stored
