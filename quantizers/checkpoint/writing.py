r"""Write a checkpoint: codes layer by layer (from the cache where known), the other tensors, config, tokenizer.

After a kill the cache holds every finished layer, and a second run ends in the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from quantizers.base import Quantizer
from quantizers.checkpoint.atomic_folder import atomic_folder
from quantizers.checkpoint.code_cache import CodeCache
from quantizers.checkpoint.encoding import PlannedLayer, Progress, encode_layers, planned_layers
from quantizers.checkpoint.layout import (
    BIAS,
    CODEBOOK,
    CONFIG,
    GENERATION,
    QUANT_METHOD,
    LayerChoice,
    LayerRecord,
    QuantizationConfig,
    tensor_hash,
)
from quantizers.checkpoint.other_tensors import other_tensors, rounded
from quantizers.checkpoint.shards import SHARD_BYTES, ShardWriter, shard_files, tensor_spans, write_file
from quantizers.feedback import PLAIN, Correction
from quantizers.models import LoadedModel, chosen_slots


def write_checkpoint(
    out: str | Path,
    loaded: LoadedModel,
    choices: Mapping[str, LayerChoice],
    *,
    rotation_seed: int,
    most_block: int = 0,
    state_bits: int,
    cache: Path | None,
    progress: Progress | None = None,
    correction: Correction = PLAIN,
    shard_bytes: int = SHARD_BYTES,
) -> pd.DataFrame:
    """Write the folder `out` whole or not at all; layers that `choices` does not name are kept as fp16. most_block: the
    limit of the order of Hadamard blocks, 0 for none (`Rotation`).

    Returns layer, quantizer, storage_bytes, distortion (on the rotated weight; of the outputs with error feedback),
    seconds, cached, one row a layer.
    ValueError for an unknown layer or quantizer or a weight that is not finite (named); OSError where the disk is full;
    FileExistsError where `out` holds something else."""
    out = Path(out)
    slots = chosen_slots(loaded.model, choices)
    layers = planned_layers(
        loaded.model, slots, choices, rotation_seed=rotation_seed, most_block=most_block, state_bits=state_bits
    )
    others = other_tensors(loaded.model, slots.values())
    quantizers = {layer.quantizer.name: layer.quantizer for layer in layers}
    needed = sum(layer.storage_bytes for layer in layers)
    needed += sum((4 if tensor.ndim < 2 else 2) * tensor.numel() for tensor in others.values())
    rows: list[dict[str, Any]] = []
    with atomic_folder(out, replaceable=is_checkpoint, needed_bytes=needed) as folder:
        writer = ShardWriter(folder, shard_bytes)
        for code in encode_layers(layers, None if cache is None else CodeCache(Path(cache)), progress, correction):
            for key, tensor in sorted(code.encoded.tensors.items()):  # the cache gives them in any order
                writer.add(f"{code.layer.slot.name}.{key}", tensor)
            rows.append(code.report())
        codebooks, shared_bytes = add_codebooks(writer, quantizers)
        for name, tensor in others.items():
            writer.add(name, rounded(name, tensor, loaded.source_dtype))
        writer.finish()
        check_bytes(folder, layers)
        quantization = QuantizationConfig(
            rotation_seed=rotation_seed,
            most_block=most_block,
            state_bits=state_bits,
            source_dtype=loaded.source_dtype,
            storage_bytes=sum(layer.storage_bytes for layer in layers),
            shared_bytes=shared_bytes,
            quantizers={name: quantizer.settings() for name, quantizer in quantizers.items()},
            codebooks=codebooks,
            layers={layer.slot.name: record(layer) for layer in layers},
            checksums=writer.checksums,
        )
        write_descriptions(folder, loaded, quantization)
    return pd.DataFrame(rows)


def record(layer: PlannedLayer) -> LayerRecord:
    """What config.json says of the layer."""
    out_features, in_features = layer.slot.weight.shape
    return LayerRecord(
        quantizer=layer.quantizer.name,
        storage_bytes=layer.storage_bytes,
        kernel=layer.choice.kernel,
        fused_with=tuple(layer.choice.fused_with),
        fusion_group=layer.slot.fusion_group,
        out_features=out_features,
        in_features=in_features,
    )


def add_codebooks(writer: ShardWriter, quantizers: Mapping[str, Quantizer]) -> tuple[dict[str, str], int]:
    """Store every distinct table once: (quantizer -> tensor name, bytes of all tables)."""
    stored: dict[str, str] = {}  # hash of a table -> its tensor
    names: dict[str, str] = {}
    size = 0
    for name, quantizer in sorted(quantizers.items()):
        table = quantizer.codebook()
        if table is None:
            continue
        key = tensor_hash(table)
        if key not in stored:
            stored[key] = f"{CODEBOOK}{name}"
            writer.add(stored[key], table)
            size += table.numel() * table.element_size()
        names[name] = stored[key]
    return names, size


def check_bytes(folder: Path, layers: list[PlannedLayer]) -> None:
    """Bytes on the disk = bytes charged, layer by layer. ValueError names a layer where they differ."""
    spans = {name: span for path in shard_files(folder) for name, span in tensor_spans(path)[1].items()}
    held: dict[str, int] = {}
    for name, (begin, end) in spans.items():
        layer_name, _, key = name.rpartition(".")
        if key != BIAS:
            held[layer_name] = held.get(layer_name, 0) + end - begin
    for layer in layers:
        name = layer.slot.name
        if held[name] != layer.storage_bytes:
            raise ValueError(f"{name} takes {held[name]} bytes on the disk, charged are {layer.storage_bytes}")


def write_descriptions(folder: Path, loaded: LoadedModel, quantization: QuantizationConfig) -> None:
    """config.json, generation_config.json and the tokenizer."""
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)
    if loaded.model.can_generate():
        write_file(folder / GENERATION, loaded.model.generation_config.to_json_string().encode())
    content = json.loads(loaded.model.config.to_json_string(use_diff=False))
    for key in ("_name_or_path", "quantization_config"):
        content.pop(key, None)
    content["architectures"] = [type(loaded.model).__name__]
    content["dtype"] = "bfloat16" if loaded.source_dtype == "bfloat16" else "float16"
    content["quantization_config"] = quantization.to_json()
    write_file(folder / CONFIG, (json.dumps(content, indent=1) + "\n").encode())


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is empty or a checkpoint, which a new one may replace."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    config = folder / CONFIG
    return config.is_file() and f'"quant_method": "{QUANT_METHOD}"' in config.read_text(errors="replace")
