r"""From a plan to the codes of every layer, in model order: rotate, look into the cache, else encode and store.

distortion = |E|^2 / |W R'|^2 with E = W R' - decode(encode(W R')), on the rotated weight; with error feedback it is
that of the outputs, tr(E H E') / tr(W R' H R W'). 0 for an all-zero weight."""

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
from quantizers.feedback import PLAIN, Correction
from quantizers.feedback.correction import relative_error
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
    most_block: int = 0,
    state_bits: int,
) -> list[PlannedLayer]:
    """Every layer of the model, in its order; those the plan does not name are kept as fp16. most_block: of `Rotation`.

    ValueError for a layer that the model lacks, one that is not in `slots` in less than 16 bits, an unknown quantizer,
    or a limit of blocks that no rotation has."""
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
                f"{name!r} is stored in 16 bits, or as the head that it is tied to; the plan says "
                f"{choice.quantizer!r}, only {KEPT!r} is possible"
            )
    kept = LayerChoice(quantizer=KEPT)
    chosen = {name: choices.get(name, kept) for name in slots}
    quantizers = {name: make_quantizer(name, state_bits) for name in sorted({c.quantizer for c in chosen.values()})}
    layers = []
    for name, slot in slots.items():
        quantizer = quantizers[chosen[name].quantizer]
        rotation = Rotation(
            in_features=slot.weight.shape[1], seed=rotation_seed, group=slot.fusion_group, most_block=most_block
        )
        layers.append(
            PlannedLayer(
                slot=slot, choice=chosen[name], quantizer=quantizer, rotation=rotation if quantizer.rotated else None
            )
        )
    return layers


def check_correction(layers: list[PlannedLayer], correction: Correction) -> None:
    """ValueError unless the second moments are there for all that is to be rotated, under the same rotation."""
    rotated = [layer.rotation for layer in layers if layer.rotation is not None and layer.slot.multiplies]
    if correction.moments is not None and rotated:
        sizes = {rotation.group: rotation.in_features for rotation in rotated}
        correction.moments.check(sizes, rotated[0].seed, rotated[0].most_block)


def encode_layers(
    layers: list[PlannedLayer],
    cache: CodeCache | None,
    progress: Progress | None = None,
    correction: Correction = PLAIN,
) -> Iterator[LayerCode]:
    """The codes of every layer, one at a time. ValueError names the layer with a NaN or infinite weight, or the fusion
    group without second moments."""
    check_correction(layers, correction)
    weights, seconds = 0, 0.0
    for done, layer in enumerate(layers):
        code = encode_layer(layer, cache, correction)
        if not code.cached:
            weights, seconds = weights + layer.slot.weight.numel(), seconds + code.seconds
        if progress is not None:
            speed = f"{weights / seconds / 1e6:.2f} M weights/s" if seconds else "from the cache"
            progress(done + 1, len(layers), f"{speed}  {layer.slot.name} {layer.quantizer.name}")
        yield code


def encode_layer(layer: PlannedLayer, cache: CodeCache | None, correction: Correction = PLAIN) -> LayerCode:
    """The codes of one layer, from the cache where it holds them."""
    start = time.perf_counter()
    weight = layer.slot.weight.cpu()
    reads = layer.rotation is not None and layer.slot.multiplies
    moment = correction.moment(layer.slot.fusion_group) if reads else None
    key = code_key(weight, layer.quantizer, layer.rotation, correction.facts(moment))
    found = cache.get(key, *weight.shape) if cache is not None else None
    cached = found is not None
    if found is None:
        found = fresh_code(layer, weight, correction, moment)
        if cache is not None:
            cache.put(key, found)
    if found.encoded.storage_bytes != layer.storage_bytes:
        raise ValueError(
            f"{layer.slot.name}: {layer.quantizer.name} holds {found.encoded.storage_bytes} bytes, "
            f"charged are {layer.storage_bytes}"
        )
    seconds = time.perf_counter() - start
    return LayerCode(layer=layer, encoded=found.encoded, distortion=found.distortion, seconds=seconds, cached=cached)


def fresh_code(
    layer: PlannedLayer, weight: torch.Tensor, correction: Correction = PLAIN, moment: torch.Tensor | None = None
) -> CachedCode:
    """Rotate, encode, and measure. moment: the layer's H, None without feedback."""
    turned = weight.float() if layer.rotation is None else layer.rotation.rotate_weight(weight)
    try:
        encoded = correction.encode(layer.quantizer, turned, moment)
    except ValueError as error:
        raise ValueError(f"layer {layer.slot.name!r}: {error}") from error
    decoded = layer.quantizer.decode(encoded)
    return CachedCode(encoded=encoded, distortion=relative_error(turned, decoded, moment))


def dense_weight(encoded: Encoded, quantizer: Quantizer, rotation: Rotation | None) -> torch.Tensor:
    """(out, in) float32, un-rotated: what stands in the model for these codes."""
    weight = quantizer.decode(encoded)
    return weight if rotation is None else rotation.unrotate_weight(weight)
