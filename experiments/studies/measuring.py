"""KL of the plans of a study on the same windows, each plan measured once and kept.

A measurement is decided by the model, the text and windows, the quantizer of every layer and how it is encoded: that is
the key of its file in the cache, so that studies share plans and a killed run goes on. Models are made in memory from
the codes of the run's cache, their other tensors rounded as a checkpoint holds them."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from experiments.progress import bar
from experiments.studies.cell import Cell
from experiments.workspace import Workspace, settings, write_csv
from quantizers.checkpoint import CodeCache, LayerChoice
from quantizers.checkpoint.encoding import dense_weight, encode_layers, planned_layers
from quantizers.checkpoint.other_tensors import other_tensors, rounded
from quantizers.evaluation import evaluate
from quantizers.feedback import PLAIN, Correction, SecondMoments
from quantizers.models import chosen_slots

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plan as it will stand in a model; equal ones are measured once."""

    quantizers: tuple[tuple[str, str], ...]  # (layer, quantizer)
    rotation_seed: int | None  # None: not rotated
    most_block: int
    state_bits: int
    correction: Correction

    @classmethod
    def of(cls, run: Workspace, cell: Cell, hessians: Path | None) -> Candidate:
        """The candidate of a cell that has a plan."""
        assert cell.solution is not None
        encoding, cfg = cell.encoding, run.cfg
        seed = cfg.rotation.seed if encoding.rotation_seed is None else encoding.rotation_seed
        correction = PLAIN
        if encoding.feedback.needs_moments:
            assert hessians is not None
            correction = Correction(method=encoding.feedback, moments=SecondMoments(hessians))
        return cls(
            quantizers=tuple((name, choice.quantizer) for name, choice in cell.solution.layers.items()),
            rotation_seed=seed if encoding.rotated else None,
            most_block=cfg.rotation.most_block,
            state_bits=cfg.state_bits if encoding.state_bits is None else encoding.state_bits,
            correction=correction,
        )

    def key(self, run: Workspace) -> str:
        """sha256 of all that decides its KL on the run's windows."""
        facts: list[Any] = [run.source(), settings(run.cfg.evaluation), self.quantizers]
        facts += [self.rotation_seed, self.most_block, self.state_bits, self.correction.method.settings()]
        if self.correction.moments is not None:
            facts += [str(self.correction.moments.folder.resolve()), self.correction.moments.settings]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]


def measure(run: Workspace, cells: Sequence[Cell], *, hessians: Path | None, together: int) -> dict[int, pd.DataFrame]:
    """Position of each cell with a plan -> window, loss, kl (nats/token). `together`: how many models stand in memory
    at once, for which the reference is computed once."""
    folder = Path(run.cfg.cache) / "measured"
    candidates = {at: Candidate.of(run, cell, hessians) for at, cell in enumerate(cells) if cell.solution is not None}
    keys = {at: candidate.key(run) for at, candidate in candidates.items()}
    wanted = {keys[at]: candidates[at] for at in candidates if not (folder / f"{keys[at]}.csv").is_file()}
    names = {keys[at]: f"{cells[at].variant}, {cells[at].budget}" for at in candidates}
    log.info("%d plans, %d to measure", len(set(keys.values())), len(wanted))
    pending = list(wanted)
    for first in range(0, len(pending), together):
        part = pending[first : first + together]
        models = {key: realize(run, wanted[key], names[key]) for key in part}
        with bar(f"evaluate {first + 1} to {first + len(part)} of {len(pending)}") as progress:
            frame = evaluate(
                run.loaded.model,
                models,
                run.evaluation_windows(),
                progress=lambda done, total, key: progress(done, total, names.get(key, key)),
            )
        for key in part:
            write_csv(frame[frame.plan == key].drop(columns="plan"), folder / f"{key}.csv")
    return {at: pd.read_csv(folder / f"{key}.csv") for at, key in keys.items()}


@torch.no_grad()
def realize(run: Workspace, candidate: Candidate, title: str) -> nn.Module:
    """A model with the candidate's weights."""
    seed = run.cfg.rotation.seed if candidate.rotation_seed is None else candidate.rotation_seed
    choices = {name: LayerChoice(quantizer=quantizer) for name, quantizer in candidate.quantizers}
    layers = planned_layers(
        run.loaded.model,
        run.slots,
        choices,
        rotation_seed=seed,
        most_block=candidate.most_block,
        state_bits=candidate.state_bits,
    )
    if candidate.rotation_seed is None:
        layers = [replace(layer, rotation=None) for layer in layers]
    model = copy.deepcopy(run.loaded.model)
    slots = chosen_slots(model, run.slots)
    for name, tensor in other_tensors(model, slots.values()).items():
        tensor.copy_(rounded(name, tensor, run.loaded.source_dtype))
    with bar(title) as progress:
        for code in encode_layers(layers, CodeCache(Path(run.cfg.cache)), progress, candidate.correction):
            layer = code.layer
            slots[layer.slot.name].weight.copy_(dense_weight(code.encoded, layer.quantizer, layer.rotation))
    return model
