r"""Sensitivity by the linearity theorem's own definition (Malinovskii et al., 2024, arXiv 2411.17525).

Layer l alone gets Gaussian noise of relative variance t; KL(t) = a_l t + O(t^2). Each window and each t get noise of
their own, so that the ratios KL / t are independent observations of equal relative spread: a_l is their mean (the
least-squares slope through zero with weights 1 / t^2), its standard error sd / sqrt(n).

Cost: windows x variances forwards per layer, each from the layer's block on (half a forward on average)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from alloc.sensitivity.perturbed import Replay, relative_noise, replaced
from alloc.sensitivity.table import Progress, Slots, require_slots, require_windows, sensitivity_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The first `count` windows, cut to `tokens`, and the relative `variances`. With `random_tokens` the text is
    replaced by uniformly random tokens of the model's vocabulary: no data needed."""

    name: ClassVar[str] = "noise"
    count: int = 2
    tokens: int = 512
    variances: tuple[float, ...] = (0.003, 0.012)
    random_tokens: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "variances", tuple(self.variances))  # a YAML list
        if self.count < 1 or self.tokens < 2 or not self.variances or not all(0 < t < 1 for t in self.variances):
            raise ValueError(f"noise needs count >= 1, tokens >= 2, variances within (0, 1), not {self}")

    def measure(
        self,
        model: nn.Module,
        slots: Slots,
        windows: torch.Tensor,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """windows: (count, T) token ids. ValueError where there are fewer than `count`."""
        require_slots(slots)
        require_windows(windows)
        if len(windows) < self.count:
            raise ValueError(f"noise on {self.count} windows, but there are only {len(windows)}")
        text = windows[: self.count, : self.tokens]
        if self.random_tokens:
            vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
            text = torch.randint(vocabulary, text.shape, generator=generator, device=generator.device)
        slopes: dict[str, list[float]] = {name: [] for name in slots}
        total = len(text) * len(slots)
        for index, window in enumerate(text):
            replay = Replay.of(model, window, slots)
            for done, (name, slot) in enumerate(slots.items()):
                for variance in self.variances:
                    noisy = slot.weight.float() + relative_noise(slot.weight, variance, generator)
                    with replaced(slots, {name: noisy}):
                        slopes[name].append(replay.increase(name)[0] / variance)
                if progress is not None:
                    progress(index * len(slots) + done + 1, total, name)
        values = np.array(list(slopes.values()))  # (layers, observations)
        single = values.shape[1] == 1
        error = np.full(len(slots), math.nan) if single else values.std(axis=1, ddof=1) / math.sqrt(values.shape[1])
        return sensitivity_table(slots, values.mean(axis=1).tolist(), error.tolist(), self.name)
