r"""How much a block turns what passes through it (layer influence, Dumitru et al., 2024, arXiv 2406.17415; block
influence of ShortGPT, Men et al., 2024, arXiv 2403.03853): a heuristic that needs forwards only.

    s_b = 1 - mean over tokens of cos(x_b, y_b),     a_l = total * s_b(l) n_l / sum of s_b(l') n_l'

x_b and y_b are the residual stream before and after block b, n_l the number of weights. All layers of a block count by
their size, and the scale is arbitrary (`total`): it can rank blocks, not layers, and its sum predicts no loss.

Cost: one forward a window."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from alloc.sensitivity.perturbed import BLOCK
from alloc.sensitivity.table import Progress, Slots, require_slots, require_windows, sensitivity_table


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosine:
    """The first `count` windows, cut to `tokens`; `total`: the sum over layers, nats/token per unit of distortion."""

    name: ClassVar[str] = "layer_cosine"
    count: int = 4
    tokens: int = 512
    total: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 1 or self.tokens < 2 or not 0 < self.total < math.inf:
            raise ValueError(f"layer_cosine needs count >= 1, tokens >= 2 and a positive total, not {self}")

    def measure(
        self,
        model: nn.Module,
        slots: Slots,
        windows: torch.Tensor,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """windows: (count, T) token ids; no random number is drawn. ValueError where there are fewer than `count`, or a
        layer stands in no numbered block."""
        require_slots(slots)
        require_windows(windows)
        if len(windows) < self.count:
            raise ValueError(f"layer_cosine on {self.count} windows, but there are only {len(windows)}")
        blocks = {name: block_of(name) for name in slots}
        turned: dict[str, list[float]] = {block: [] for block in blocks.values()}
        for done, window in enumerate(windows[: self.count, : self.tokens]):
            for block, value in turns(model, list(turned), window).items():
                turned[block].append(value)
            if progress is not None:
                progress(done + 1, self.count, self.name)
        size = np.array([slot.weight.numel() for slot in slots.values()], float)
        values = np.array([turned[block] for block in blocks.values()])  # (layers, windows)
        scale = self.total / float((values.mean(axis=1) * size).sum())
        spread = values.std(axis=1, ddof=1) / math.sqrt(self.count) if self.count > 1 else np.full(len(size), math.nan)
        return sensitivity_table(
            slots, (scale * size * values.mean(axis=1)).tolist(), (scale * size * spread).tolist(), self.name
        )


def block_of(layer: str) -> str:
    """Name of the block that holds a layer. ValueError where it is in none."""
    match = BLOCK.fullmatch(layer)
    if match is None:
        raise ValueError(f"layer {layer!r} stands in no numbered block")
    return f"{match['list']}.{match['index']}"


@torch.no_grad()
def turns(model: nn.Module, blocks: list[str], window: torch.Tensor) -> dict[str, float]:
    """1 - mean cosine between the input and the output of each block on one window (T,)."""
    found: dict[str, float] = {}

    def compare(block: str, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        before = arguments[0] if arguments else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        cosine = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
        found[block] = 1.0 - cosine.mean().item()

    with ExitStack() as hooks:
        for block in blocks:
            hook = model.get_submodule(block).register_forward_hook(
                lambda _module, arguments, named, output, block=block: compare(block, arguments, named, output),
                with_kwargs=True,
            )
            hooks.callback(hook.remove)
        model(input_ids=window[None].to(next(model.parameters()).device), use_cache=False)
    return found
