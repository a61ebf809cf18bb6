"""KL of a plan on a few windows of calibration text, as the fitness of a search over plans.

Successive plans differ in a few layers: one live model is kept, and only layers whose quantizer changed are decoded and
written into it. Codes come from the run's cache; weights that were decoded once are kept in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from alloc.choice import Choice
from experiments.workspace import Workspace
from quantizers.checkpoint import CodeCache, LayerChoice
from quantizers.checkpoint.encoding import dense_weight, encode_layer, planned_layers
from quantizers.evaluation import Reference, log_probability_and_divergence
from quantizers.models import chosen_slots


@dataclass(slots=True)
class MeasuredFitness:
    """Plan -> mean KL, nats/token. `model` is changed from plan to plan; `references` are those of the windows."""

    run: Workspace
    model: nn.Module
    windows: torch.Tensor
    references: list[Reference]
    current: dict[str, str] = field(default_factory=dict)
    decoded: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def on(cls, run: Workspace, *, windows: int, tokens: int) -> MeasuredFitness:
        """The first `windows` windows of calibration text, cut to `tokens`. ValueError where there are fewer."""
        text = run.calibration_windows()[:windows, :tokens]
        if len(text) < windows:
            raise ValueError(f"a fitness on {windows} windows, but calibration.count gives {len(text)}")
        references = [
            Reference.from_logits(run.loaded.model(input_ids=w[None], use_cache=False).logits[0]) for w in text
        ]
        return cls(run=run, model=copy.deepcopy(run.loaded.model), windows=text, references=references)

    @torch.no_grad()
    def __call__(self, plan: Mapping[str, Choice]) -> float:
        """Mean KL over the windows."""
        slots = chosen_slots(self.model, plan)
        changed = {name: c.quantizer for name, c in plan.items() if self.current.get(name) != c.quantizer}
        for name, quantizer in changed.items():
            slots[name].weight.copy_(self._weight(name, quantizer))
        self.current |= changed
        losses = [
            log_probability_and_divergence(
                reference, self.model(input_ids=window[None], use_cache=False).logits[0], window
            )[1].mean()
            for window, reference in zip(self.windows, self.references, strict=True)
        ]
        return float(torch.stack(losses).mean())

    def _weight(self, name: str, quantizer: str) -> torch.Tensor:
        if (name, quantizer) not in self.decoded:
            run = self.run
            layer = planned_layers(
                run.loaded.model,
                {name: run.slots[name]},
                {name: LayerChoice(quantizer=quantizer)},
                rotation_seed=run.cfg.rotation.seed,
                most_block=run.cfg.rotation.most_block,
                state_bits=run.cfg.state_bits,
            )[0]
            code = encode_layer(layer, CodeCache(Path(run.cfg.cache)))
            # half the memory: 2^-12 of a weight, a hundredth of the error of 5 bits
            self.decoded[name, quantizer] = dense_weight(code.encoded, layer.quantizer, layer.rotation).half()
        return self.decoded[name, quantizer].float()
