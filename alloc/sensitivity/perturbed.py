r"""Weights changed for a moment, and what the model then loses on windows whose reference is kept.

Noise of relative variance t on a layer is i.i.d. in each row, with variance t |w_i|^2 / in: white noise stays white
under an orthonormal rotation of the input, so that it is drawn in the weight's own basis.

A change in block b leaves blocks 0..b-1 as they were: `Replay` keeps every block's output of the clean forward, and
lets the blocks before b return theirs instead of computing. The model's own code runs all the rest (masks, rotary
angles, caches), so that this works for every architecture whose blocks are numbered members of one list."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alloc.sensitivity.table import Slots
from quantizers.evaluation import Reference, log_probability_and_divergence

BLOCK = re.compile(r"(?P<list>.*?)\.(?P<index>\d+)\..*")


def relative_noise(weight: torch.Tensor, variance: float, generator: torch.Generator) -> torch.Tensor:
    """(out, in) Gaussian noise, float32: each row of expected energy variance * |w_row|^2."""
    noise = torch.randn(weight.shape, generator=generator, device=generator.device).to(weight.device)
    scale = weight.float().norm(dim=1, keepdim=True) * math.sqrt(variance / weight.shape[1])
    return noise.mul_(scale)


@contextmanager
def replaced(slots: Slots, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Within the block, each named layer holds the given (out, in) weight; the old bits are put back after."""
    kept = {name: slots[name].weight.clone() for name in weights}
    try:
        for name, weight in weights.items():
            slots[name].weight.copy_(weight)
        yield
    finally:
        for name, weight in kept.items():
            slots[name].weight.copy_(weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One window's clean forward pass: the reference logits and each block's output, by block list and index."""

    model: nn.Module
    window: torch.Tensor
    reference: Reference
    outputs: Mapping[str, tuple[Any, ...]]
    loss: float

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, window: torch.Tensor, slots: Slots) -> Replay:
        """window: (T,) token ids."""
        tokens = window.to(next(model.parameters()).device)
        lists = {match["list"] for name in slots if (match := BLOCK.fullmatch(name))}
        outputs: dict[str, list[Any]] = {name: [] for name in lists}
        with ExitStack() as hooks:
            for name in lists:
                for block in model.get_submodule(name).children():
                    hook = block.register_forward_hook(
                        lambda _module, _inputs, output, kept=outputs[name]: kept.append(output)
                    )
                    hooks.callback(hook.remove)
            logits = model(input_ids=tokens[None], use_cache=False).logits[0]
        reference = Reference.from_logits(logits)
        log_probability, _ = log_probability_and_divergence(reference, reference.logits, tokens)
        kept = {name: tuple(values) for name, values in outputs.items()}
        return cls(model=model, window=tokens, reference=reference, outputs=kept, loss=-log_probability.mean().item())

    @torch.no_grad()
    def increase(self, layer: str | None = None) -> tuple[float, float]:
        """(KL, loss increase) in nats/token of the model as its weights are now. `layer`: only blocks from this
        layer's on have changed."""
        match = BLOCK.fullmatch(layer) if layer is not None else None
        with ExitStack() as patches:
            if match is not None:
                kept = self.outputs[match["list"]]
                blocks = list(self.model.get_submodule(match["list"]).children())
                for block, output in zip(blocks[: int(match["index"])], kept, strict=False):
                    # an instance attribute hides the class's method; deleting it brings the method back
                    block.forward = lambda *_args, kept=output, **_kwargs: kept
                    patches.callback(delattr, block, "forward")
            logits = self.model(input_ids=self.window[None], use_cache=False).logits[0]
        log_probability, divergence = log_probability_and_divergence(self.reference, logits, self.window)
        return divergence.mean().item(), -log_probability.mean().item() - self.loss
