r"""The same plan applied to a model in memory, without a file: what a loaded checkpoint equals bit for bit.

dense:  W <- decode(codes) R, written into the live parameter, which any code that knows the model can run;
packed: the linear is replaced by a `QuantizedLinear` that holds the codes (experts stay dense: they are slices), and
        those that the plan fuses become one product (quantizers.modules)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from quantizers.base import Encoded, Quantizer
from quantizers.checkpoint.code_cache import CodeCache
from quantizers.checkpoint.encoding import Progress, dense_weight, encode_layers, planned_layers
from quantizers.checkpoint.layout import LayerChoice
from quantizers.checkpoint.other_tensors import other_tensors, rounded
from quantizers.linear import QuantizedLinear
from quantizers.models import LinearSlot, LoadedModel, linear_slots
from quantizers.modules.fusing import fuse, units_of
from quantizers.rotation import Rotation


def quantize_in_place(
    loaded: LoadedModel,
    choices: Mapping[str, LayerChoice],
    *,
    rotation_seed: int,
    state_bits: int,
    cache: Path | None = None,
    packed: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Change `loaded.model` into the quantized model of the plan, other tensors rounded to 16 bits as on disk.

    Returns the rows that `write_checkpoint` returns; ValueError as there, or where layers cannot be fused."""
    slots = linear_slots(loaded.model)
    layers = planned_layers(loaded.model, slots, choices, rotation_seed=rotation_seed, state_bits=state_bits)
    for name, tensor in other_tensors(loaded.model, slots.values()).items():
        tensor.copy_(rounded(name, tensor, loaded.source_dtype))
    whole = [name for name, slot in slots.items() if packable(slot)]
    units = units_of({layer.slot.name: layer.choice for layer in layers}, whole) if packed else []
    rows = []
    for code in encode_layers(layers, None if cache is None else CodeCache(cache), progress):
        layer = code.layer
        encoded = on_device(code.encoded, layer.slot.parameter.device)
        install(loaded.model, layer.slot, encoded, layer.quantizer, layer.rotation, packed=packed)
        rows.append(code.report())
    if packed:
        fuse(loaded.model, units)
    return pd.DataFrame(rows)


def install(
    model: nn.Module,
    slot: LinearSlot,
    encoded: Encoded,
    quantizer: Quantizer,
    rotation: Rotation | None,
    *,
    packed: bool,
) -> None:
    """Put the codes of one layer, on the device they are on, into the model."""
    if packed and packable(slot):
        replace_linear(model, slot.name, QuantizedLinear(quantizer, encoded, rotation))
    else:
        slot.weight.copy_(dense_weight(encoded, quantizer, rotation))


def packable(slot: LinearSlot) -> bool:
    """Whether the layer is a module of its own, not a slice of a fused parameter."""
    return slot.index == ()


def replace_linear(model: nn.Module, name: str, packed: QuantizedLinear) -> None:
    """Set the module; the bias of the linear that stood there moves along."""
    parent, _, leaf = name.rpartition(".")
    holder = model.get_submodule(parent)
    linear = holder.get_submodule(leaf)
    assert isinstance(linear, nn.Linear)
    packed.bias = linear.bias
    packed.train(linear.training)
    setattr(holder, leaf, packed)


def on_device(encoded: Encoded, device: torch.device) -> Encoded:
    """The codes on another device."""
    tensors = {key: tensor.to(device) for key, tensor in encoded.tensors.items()}
    return Encoded(out_features=encoded.out_features, in_features=encoded.in_features, tensors=tensors)
