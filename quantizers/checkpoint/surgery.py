r"""The same plan applied to a model in memory, without a file: what a loaded checkpoint equals bit for bit.

dense:  W <- decode(codes) R, written into the live parameter, which any code that knows the model can run;
packed: the linear is replaced by a `QuantizedLinear` that holds the codes (experts stay dense: they are slices), and
        those that the plan fuses become one product (quantizers.modules); an embedding by a `QuantizedEmbedding`, which
        has the codes of the head where it is tied. Embedding and head of 16 bits stay what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from quantizers.base import Encoded, Quantizer
from quantizers.checkpoint.code_cache import CodeCache
from quantizers.checkpoint.encoding import KEPT, Progress, dense_weight, encode_layers, planned_layers
from quantizers.checkpoint.layout import LayerChoice
from quantizers.checkpoint.other_tensors import other_tensors, rounded
from quantizers.embedding import QuantizedEmbedding
from quantizers.linear import QuantizedLinear
from quantizers.models import LinearSlot, LoadedModel, chosen_slots
from quantizers.modules.fusing import fuse, units_of
from quantizers.rotation import Rotation


def quantize_in_place(
    loaded: LoadedModel,
    choices: Mapping[str, LayerChoice],
    *,
    rotation_seed: int,
    most_block: int = 0,
    state_bits: int,
    cache: Path | None = None,
    packed: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Change `loaded.model` into the quantized model of the plan, other tensors rounded to 16 bits as on disk.
    most_block: as of `write_checkpoint`.

    Returns the rows that `write_checkpoint` returns; ValueError as there, or where layers cannot be fused."""
    slots = chosen_slots(loaded.model, choices)
    layers = planned_layers(
        loaded.model, slots, choices, rotation_seed=rotation_seed, most_block=most_block, state_bits=state_bits
    )
    for name, tensor in other_tensors(loaded.model, slots.values()).items():
        tensor.copy_(rounded(name, tensor, loaded.source_dtype))
    whole = [layer.slot.name for layer in layers if packable(layer.slot, layer.quantizer.name)]
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
    if packed and packable(slot, quantizer.name):
        replace(model, slot, QuantizedLinear(quantizer, encoded, rotation))
    else:
        slot.weight.copy_(dense_weight(encoded, quantizer, rotation))


def packable(slot: LinearSlot, quantizer: str) -> bool:
    """Whether codes may take the place of the layer: it is a module of its own, not a slice of a fused parameter, and
    no embedding or head of 16 bits, whose dense weight has the same bytes."""
    return slot.index == () and (slot.in_block or quantizer != KEPT)


def replace(model: nn.Module, slot: LinearSlot, packed: QuantizedLinear) -> None:
    """Put the codes in the place of a layer. An embedding that is the layer, or is tied to it, looks up their rows."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    if slot.multiplies:
        replace_linear(model, slot.name, packed)
    if isinstance(embedding, nn.Embedding) and embedding.weight is slot.parameter:
        looked_up = QuantizedEmbedding(packed, embedding, tied=slot.multiplies).train(embedding.training)
        model.set_input_embeddings(looked_up)  # type: ignore[operator]


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
