r"""From a plan to the codes of every layer, in model order: rotate, look into the cache, else encode and store.

distortion = |W R' - decode(encode(W R'))|^2 / |W R'|^2, on the rotated weight; 0 for an all-zero weight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from quantizers import make_quantizer
from quantizers.base import Encoded, Quantizer
from quantizers.checkpoint.code_cache import CachedCode, CodeCache, code_key
from quantizers.checkpoint.layout import LayerChoice
from quantizers.models import LinearSlot
from quantizers.rotation import Rotation

Progress = Callable[[int, int, str], None]
KEPT = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLayer:
    """A layer with its quantizer and rotation (None where the quantizer does not rotate)."""

    slot: LinearSlot
    choice: LayerChoice
    quantizer: Quantizer
    rotation: Rotation | None

    @property
    def storage_bytes(self) -> int:
        """Bytes the plan charges for it."""
        return self.quantizer.storage_bytes(*self.slot.weight.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCode:
    """The codes of a planned layer; `seconds` to get them, `cached` where they were not encoded in this run."""

    layer: PlannedLayer
    encoded: Encoded
    distortion: float
    seconds: float
    cached: bool

    def report(self) -> dict[str, Any]:
        """A row of quantization.csv."""
        return {
            "layer": self.layer.slot.name,
            "quantizer": self.layer.quantizer.name,
            "storage_bytes": self.encoded.storage_bytes,
            "distortion": self.distortion,
            "seconds": round(self.seconds, 4),
            "cached": self.cached,
        }


def planned_layers(
    model: Any,
    slots: Mapping[str, LinearSlot],
    choices: Mapping[str, LayerChoice],
    *,
    rotation_seed: int,
    state_bits: int,
) -> list[PlannedLayer]:
    """Every layer of the model, in its order; those the plan does not name are kept as fp16.

    ValueError for a layer that the model lacks, an unknown quantizer, an embedding or lm_head in less than 16 bits."""
    modules = dict(model.named_modules())
    for name, choice in choices.items():
        if name in slots:
            continue
        if name not in modules:
            raise ValueError(
                f"the plan names the layer {name!r}, which the model lacks; its first is {next(iter(slots))!r}"
            )
        if choice.quantizer != KEPT:
            raise ValueError(
                f"{name!r} is stored in 16 bits; the plan says {choice.quantizer!r}, only {KEPT!r} is possible"
            )
    kept = LayerChoice(quantizer=KEPT)
    chosen = {name: choices.get(name, kept) for name in slots}
    quantizers = {name: make_quantizer(name, state_bits) for name in sorted({c.quantizer for c in chosen.values()})}
    layers = []
    for name, slot in slots.items():
        quantizer = quantizers[chosen[name].quantizer]
        rotation = Rotation(in_features=slot.weight.shape[1], seed=rotation_seed, group=slot.fusion_group)
        layers.append(
            PlannedLayer(
                slot=slot, choice=chosen[name], quantizer=quantizer, rotation=rotation if quantizer.rotated else None
            )
        )
    return layers


def encode_layers(
    layers: list[PlannedLayer], cache: CodeCache | None, progress: Progress | None = None
) -> Iterator[LayerCode]:
    """The codes of every layer, one at a time. ValueError names the layer with a NaN or infinite weight."""
    weights, seconds = 0, 0.0
    for done, layer in enumerate(layers):
        code = encode_layer(layer, cache)
        if not code.cached:
            weights, seconds = weights + layer.slot.weight.numel(), seconds + code.seconds
        if progress is not None:
            speed = f"{weights / seconds / 1e6:.2f} M weights/s" if seconds else "from the cache"
            progress(done + 1, len(layers), f"{speed}  {layer.slot.name} {layer.quantizer.name}")
        yield code


def encode_layer(layer: PlannedLayer, cache: CodeCache | None) -> LayerCode:
    """The codes of one layer, from the cache where it holds them."""
    start = time.perf_counter()
    weight = layer.slot.weight.cpu()
    key = code_key(weight, layer.quantizer, layer.rotation)
    found = cache.get(key, *weight.shape) if cache is not None else None
    cached = found is not None
    if found is None:
        found = fresh_code(layer, weight)
        if cache is not None:
            cache.put(key, found)
    if found.encoded.storage_bytes != layer.storage_bytes:
        raise ValueError(
            f"{layer.slot.name}: {layer.quantizer.name} holds {found.encoded.storage_bytes} bytes, "
            f"charged are {layer.storage_bytes}"
        )
    seconds = time.perf_counter() - start
    return LayerCode(layer=layer, encoded=found.encoded, distortion=found.distortion, seconds=seconds, cached=cached)


def fresh_code(layer: PlannedLayer, weight: torch.Tensor) -> CachedCode:
    """Rotate, encode, and measure."""
    turned = weight.float() if layer.rotation is None else layer.rotation.rotate_weight(weight)
    try:
        encoded = layer.quantizer.encode(turned)
    except ValueError as error:
        raise ValueError(f"layer {layer.slot.name!r}: {error}") from error
    error_energy = energy(turned - layer.quantizer.decode(encoded))
    total = energy(turned)
    return CachedCode(encoded=encoded, distortion=error_energy / total if total > 0.0 else 0.0)


def energy(matrix: torch.Tensor) -> float:
    """|W|^2; along rows in float32, over rows in float64."""
    return float(matrix.square().sum(dim=1).double().sum())


def dense_weight(encoded: Encoded, quantizer: Quantizer, rotation: Rotation | None) -> torch.Tensor:
    """(out, in) float32, un-rotated: what stands in the model for these codes."""
    weight = quantizer.decode(encoded)
    return weight if rotation is None else rotation.unrotate_weight(weight)
