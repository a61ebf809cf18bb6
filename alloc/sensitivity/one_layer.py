r"""The truth that sensitivities predict: one layer is really quantized, all others stay, and the KL is measured.

The rows `layer, quantizer, loss` are a `loss.csv`: the allocator then adds measured one-layer losses in place of
sensitivity x distortion. KL stands for the loss: its spread over windows is a few percent, that of the loss increase
of one layer is larger than its mean.

Cost: windows forwards per layer and quantizer, each from the layer's block on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from alloc.sensitivity.perturbed import Replay, replaced
from alloc.sensitivity.table import Progress, Slots, require_slots, require_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class OneLayer:
    """`decode(layer)` gives the decoded weight (out, in) in the model's own basis; `quantizer` is its name. The first
    `count` windows, cut to `tokens`."""

    decode: Callable[[str], torch.Tensor]
    quantizer: str
    count: int = 2
    tokens: int = 512

    def measure(
        self, model: nn.Module, slots: Slots, windows: torch.Tensor, *, progress: Progress | None = None
    ) -> pd.DataFrame:
        """Rows layer, quantizer, distortion (|w - w'|^2 / |w|^2), loss, loss_se (KL, nats/token). ValueError where a
        decoded weight has another shape, or windows are fewer than `count`."""
        require_slots(slots)
        require_windows(windows)
        if len(windows) < self.count:
            raise ValueError(f"one_layer on {self.count} windows, but there are only {len(windows)}")
        replays = [Replay.of(model, window, slots) for window in windows[: self.count, : self.tokens]]
        rows: list[dict[str, str | float]] = []
        for name, slot in slots.items():
            decoded = self.decode(name)
            if decoded.shape != slot.weight.shape:
                raise ValueError(f"{name}: decoded {tuple(decoded.shape)}, the layer is {tuple(slot.weight.shape)}")
            error = (slot.weight.float() - decoded.float()).square().sum(dtype=torch.float64)
            energy = slot.weight.float().square().sum(dtype=torch.float64)
            with replaced(slots, {name: decoded}):
                losses = np.array([replay.increase(name)[0] for replay in replays])
            rows.append(
                {
                    "layer": name,
                    "quantizer": self.quantizer,
                    "distortion": (error / energy).item(),
                    "loss": float(losses.mean()),
                    "loss_se": float(losses.std(ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else math.nan,
                }
            )
            if progress is not None:
                progress(len(rows), len(slots), name)
        return pd.DataFrame(rows)


def stratified(layers: Sequence[str], count: int, always: Sequence[str] = ()) -> list[str]:
    """`count` of the layers, in their own order: every type (last part of the name) at evenly spaced depths, the
    types at staggered ones, and those of `always` that exist. All of them where count >= len(layers)."""
    if count < 1:
        raise ValueError(f"count must be >= 1, not {count}")
    if count >= len(layers):
        return list(layers)
    chosen = {layer for layer in always if layer in layers}
    types: dict[str, list[str]] = {}
    for layer in layers:
        if layer not in chosen:
            types.setdefault(layer.rsplit(".", 1)[-1], []).append(layer)
    for turn, members in enumerate(types.values()):
        share = (count - len(chosen)) / (len(types) - turn)
        wanted = max(0, min(len(members), round(share)))
        stagger = (turn + 0.5) / len(types)
        chosen |= {members[int((i + stagger) * len(members) / wanted)] for i in range(wanted)}
    return [layer for layer in layers if layer in chosen]
