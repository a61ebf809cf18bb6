r"""Load a checkpoint: the model of its config, every tensor checked against its sha256, codes decoded or kept packed.

The logits equal those of the model that `quantize_in_place` makes of the same plan, bit for bit on one machine: the
same codes go through the same decoder, in the same shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantizers import make_quantizer
from quantizers.base import Encoded, Quantizer
from quantizers.checkpoint.layout import BIAS, GENERATION, LayerRecord, QuantizationConfig, read_config
from quantizers.checkpoint.other_tensors import other_tensors
from quantizers.checkpoint.shards import checked_tensors
from quantizers.checkpoint.surgery import install, packable
from quantizers.models import LinearSlot, LoadedModel, chosen_slots
from quantizers.models.empty import empty_model
from quantizers.modules.fusing import fuse, units_of
from quantizers.rotation import Rotation


def load_checkpoint(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = False,
    fused: bool = True,
) -> LoadedModel:
    """The quantized model, in eval mode. `packed`: linears hold their codes, from which every call makes its product
    (experts are dense always), one product for the layers that the plan fuses unless `fused` is False; else dense
    un-rotated weights of `dtype`.

    FileNotFoundError, or ValueError that names the damaged tensor and its layer, or a layer that cannot be fused."""
    folder, device = Path(path), torch.device(device)
    content, quantization = read_config(folder)
    codes: dict[str, dict[str, torch.Tensor]] = {name: {} for name in quantization.layers}
    others: dict[str, torch.Tensor] = {}
    for name, tensor in checked_tensors(folder, quantization.checksums, quantization.layers):
        layer, _, key = name.rpartition(".")
        if layer in codes and key != BIAS:
            codes[layer][key] = tensor.to(device, copy=True)
        else:
            others[name] = tensor
    quantizers = stored_quantizers(folder, quantization, others)
    model = empty_model(text_config(content), dtype)
    slots = chosen_slots(model, codes)
    if set(slots) != set(codes):
        odd = sorted(set(slots) ^ set(codes))[0]
        raise ValueError(f"{folder}: config.json and the model disagree on the layer {odd!r}")
    packs = {name for name, slot in slots.items() if packable(slot, quantization.layers[name].quantizer)}
    kept_packed = packs if packed else set()
    for name in kept_packed:
        encoded = restored(folder, quantization.layers[name], name, codes.pop(name), slots[name])
        quantizer = quantizers[quantization.layers[name].quantizer]
        install(model, slots[name], encoded, quantizer, rotation_of(quantization, name, quantizer), packed=True)
    allocate(model, dtype, device)
    slots = chosen_slots(model, codes)
    for name, slot in slots.items():
        encoded = restored(folder, quantization.layers[name], name, codes.pop(name), slot)
        quantizer = quantizers[quantization.layers[name].quantizer]
        install(model, slot, encoded, quantizer, rotation_of(quantization, name, quantizer), packed=False)
    fill(folder, other_tensors(model, slots.values()), others)
    add_generation_config(folder, model)
    if packed:
        fuse(model, units_of(quantization.layers, kept_packed) if fused else ())
    model.eval().requires_grad_(False)
    return LoadedModel(model=model, tokenizer=read_tokenizer(folder), path=folder, source_dtype="bitpalette")


def stored_quantizers(
    folder: Path, quantization: QuantizationConfig, tensors: dict[str, torch.Tensor]
) -> dict[str, Quantizer]:
    """The quantizers of the checkpoint, reading its own tables, which are taken out of `tensors`.

    ValueError where this program would decode the codes in another way than they were written."""
    tables = {name: tensors.pop(name).clone() for name in sorted(set(quantization.codebooks.values()))}
    quantizers = {}
    for name, settings in quantization.quantizers.items():
        quantizer = make_quantizer(name, quantization.state_bits)
        if name in quantization.codebooks:
            quantizer = quantizer.with_codebook(tables[quantization.codebooks[name]])
        if quantizer.settings() != dict(settings):
            raise ValueError(
                f"{folder}: {name} was written with {dict(settings)}, this program has {quantizer.settings()}"
            )
        quantizers[name] = quantizer
    return quantizers


def text_config(content: dict[str, Any]) -> Any:
    """The model's config without `quantization_config`, which transformers would try to interpret."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**content)


def restored(
    folder: Path, record: LayerRecord, name: str, tensors: dict[str, torch.Tensor], slot: LinearSlot
) -> Encoded:
    """The codes of a layer. ValueError where config.json, the file and the model disagree on its size."""
    shape = (record.out_features, record.in_features)
    encoded = Encoded(out_features=shape[0], in_features=shape[1], tensors=tensors)
    if tuple(slot.weight.shape) != shape or encoded.storage_bytes != record.storage_bytes:
        raise ValueError(
            f"{folder}: layer {name!r} is said to be {shape} in {record.storage_bytes} bytes; "
            f"the model has {tuple(slot.weight.shape)}, the file {encoded.storage_bytes} bytes"
        )
    return encoded


def rotation_of(quantization: QuantizationConfig, name: str, quantizer: Quantizer) -> Rotation | None:
    """The rotation the layer was written with."""
    if not quantizer.rotated:
        return None
    record = quantization.layers[name]
    return Rotation(
        in_features=record.in_features,
        seed=quantization.rotation_seed,
        group=record.fusion_group,
        most_block=quantization.most_block,
    )


def allocate(model: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter that is still without memory its own, tie what the config ties, move the buffers."""
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        if parameter.is_meta and name not in tied:
            holder, _, leaf = name.rpartition(".")
            values = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=device), requires_grad=False)
            model.get_submodule(holder).register_parameter(leaf, values)
    if tied & set(parameters):  # a packed head shares its codes already
        model.tie_weights()
    model.to(device)


def fill(folder: Path, targets: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    """Copy the other tensors into the model. ValueError names one that is missing, unknown or misshapen."""
    for name in sorted(set(targets) ^ set(tensors)):
        raise ValueError(
            f"{folder}: tensor {name!r} is {'not in the file' if name in targets else 'unknown to the model'}"
        )
    for name, target in targets.items():
        if tensors[name].shape != target.shape:
            raise ValueError(
                f"{folder}: tensor {name!r} is {tuple(tensors[name].shape)}, the model's {tuple(target.shape)}"
            )
        target.copy_(tensors[name])


def add_generation_config(folder: Path, model: Any) -> None:
    """Lengths, end-of-text tokens and sampling that came with the source."""
    from transformers import GenerationConfig

    if (folder / GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)


def read_tokenizer(folder: Path) -> Any | None:
    """The tokenizer; None where the source had none."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file():
        return None
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
