r"""The checkpoint folder: names of files and tensors, what config.json says of every layer, and how tensors are hashed.

    model.safetensors                  or model-00001-of-00003.safetensors, ... and model.safetensors.index.json
        <layer>.<key>                  what `Quantizer.encode` gives: codes, row_scale; `weight` where it is fp16
        codebook.<quantizer>           once per distinct table, float16
        <other tensor>                 norms, biases, embedding and head that are no layers: 16 bits, one-dimensional
                                       ones float32
    config.json                        the model's config and `quantization_config`
    generation_config.json, tokenizer files

Contents depend on the weights and the plan alone (no times, no paths), so that a resumed run ends in the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

QUANT_METHOD = "bitpalette"
FORMAT_VERSION = 1
CONFIG = "config.json"
GENERATION = "generation_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CODEBOOK = "codebook."
BIAS = "bias"  # `<layer>.bias` is no part of the layer's storage: it stays in the other tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChoice:
    """What a plan says of a layer: a quantizer's name, and for the kernels of a GPU a kernel and fused partners."""

    quantizer: str
    kernel: str | None = None
    fused_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """One entry of `quantization_config["layers"]`. `fusion_group` names the rotation, null where there is none."""

    quantizer: str
    storage_bytes: int
    kernel: str | None
    fused_with: tuple[str, ...]
    fusion_group: str
    out_features: int
    in_features: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationConfig:
    """`quantization_config` of config.json. `codebooks`: quantizer -> tensor name; `quantizers`: name -> settings;
    `checksums`: tensor name -> `tensor_hash`; `storage_bytes` over all layers, `shared_bytes` of the codebooks;
    `rotation_seed`, `most_block`: of every `Rotation`; a record without the latter has no limit, 0."""

    rotation_seed: int
    most_block: int
    state_bits: int
    source_dtype: str
    storage_bytes: int
    shared_bytes: int
    quantizers: Mapping[str, Mapping[str, Any]]
    codebooks: Mapping[str, str]
    layers: Mapping[str, LayerRecord]
    checksums: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the fields that other programs read first."""
        return {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            "rotation": {"seed": self.rotation_seed, "most_block": self.most_block},
            "layers": {
                name: {
                    "quantizer": layer.quantizer,
                    "storage_bytes": layer.storage_bytes,
                    "kernel": layer.kernel,
                    "fused_with": list(layer.fused_with),
                    "fusion_group": layer.fusion_group,
                    "out_features": layer.out_features,
                    "in_features": layer.in_features,
                }
                for name, layer in self.layers.items()
            },
            "state_bits": self.state_bits,
            "source_dtype": self.source_dtype,
            "storage_bytes": self.storage_bytes,
            "shared_bytes": self.shared_bytes,
            "quantizers": {name: dict(settings) for name, settings in self.quantizers.items()},
            "codebooks": dict(self.codebooks),
            "checksums": dict(self.checksums),
        }


def read_config(folder: Path) -> tuple[dict[str, Any], QuantizationConfig]:
    """(the model's config without `quantization_config`, that). FileNotFoundError or ValueError, naming the file."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG}; a checkpoint is a folder that experiments.quantize wrote")
    try:
        content = json.loads(path.read_text())
        stored = content.pop("quantization_config", {})
        method, version = stored.get("quant_method"), stored.get("format_version")
        if (method, version) != (QUANT_METHOD, FORMAT_VERSION):
            raise ValueError(
                f"{path} is of quant_method {method!r}, format_version {version!r}; "
                f"this reads {QUANT_METHOD!r}, {FORMAT_VERSION}"
            )
        layers = {
            name: LayerRecord(**{**entry, "fused_with": tuple(entry["fused_with"])})
            for name, entry in stored["layers"].items()
        }
        quantization = QuantizationConfig(
            rotation_seed=stored["rotation"]["seed"],
            most_block=stored["rotation"].get("most_block", 0),
            layers=layers,
            **{name: stored[name] for name in ("state_bits", "source_dtype", "storage_bytes", "shared_bytes")},
            **{name: stored[name] for name in ("quantizers", "codebooks", "checksums")},
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: no valid JSON ({error})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: quantization_config lacks or misstates {error}") from None
    return content, quantization


def tensor_bytes(tensor: torch.Tensor) -> bytes | memoryview:
    """The bytes of a tensor, row-major, little-endian."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def tensor_hash(tensor: torch.Tensor) -> str:
    """sha256 of dtype, shape and bytes: `float16 (3, 4)\\n` and the data."""
    head = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}\n".encode()
    digest = hashlib.sha256(head)
    digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def owner(tensor: str, layers: Mapping[str, LayerRecord]) -> str:
    """`tensor 'NAME' (layer 'LAYER', QUANTIZER)` for messages; the layer only where the tensor is one's."""
    layer = tensor.rpartition(".")[0]
    return f"tensor {tensor!r}" + (f" (layer {layer!r}, {layers[layer].quantizer})" if layer in layers else "")
