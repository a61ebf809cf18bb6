"""What the stages of a run share: its config, its folder, and the model and text, loaded when first needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from experiments.stages import Stages
from quantizers import palette
from quantizers.base import Quantizer
from quantizers.models import LinearSlot, LoadedModel, TextSplit, linear_slots, load_model, load_text, token_windows
from quantizers.models.location import resolve_file, resolve_model
from quantizers.rotation import Rotation


@dataclass
class Workspace:
    """One run. Nothing here computes a result; `stages` decides what must be done again."""

    cfg: DictConfig
    folder: Path
    stages: Stages = field(init=False)

    def __post_init__(self) -> None:
        self.stages = Stages(self.folder, cache=Path(self.cfg.cache) / "stages" if "cache" in self.cfg else None)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The reference model, float32 on the CPU."""
        return load_model(self.cfg.model.path, verify_sha256=self.cfg.model.sha256)

    @cached_property
    def slots(self) -> dict[str, LinearSlot]:
        """The live layers of the reference model."""
        return linear_slots(self.loaded.model, head=self.cfg.inventory.head)

    @cached_property
    def text(self) -> TextSplit:
        """Documents for calibration and, disjoint from them, for evaluation."""
        return load_text(self.cfg.text.path, min_characters=self.cfg.text.min_characters)

    def calibration_windows(self) -> torch.Tensor:
        """(count, window) tokens of the calibration half."""
        return token_windows(self.loaded.tokenizer, self.text.calibration, **self.cfg.calibration)

    def evaluation_windows(self) -> torch.Tensor:
        """(count, window) tokens of the evaluation half."""
        return token_windows(self.loaded.tokenizer, self.text.evaluation, **self.cfg.evaluation)

    @cached_property
    def quantizers(self) -> tuple[Quantizer, ...]:
        """The palette and the baselines that plans are compared with."""
        wanted = [*self.cfg.palette.members, *self.cfg.baselines]
        if self.cfg.budget.uniform:
            wanted.append(self.cfg.budget.uniform)
        return palette(wanted, state_bits=self.cfg.state_bits)

    def rotation(self, layer: str) -> Rotation:
        """The rotation of a layer: its fusion group's."""
        slot = self.slots[layer]
        return Rotation(in_features=slot.weight.shape[1], group=slot.fusion_group, **self.cfg.rotation)

    def source(self) -> dict[str, object]:
        """What decides the reference model and the text, for fingerprints: settings, and the files behind them."""
        files = [resolve_model(self.cfg.model.path), resolve_file(self.cfg.text.path)]
        return {"model": settings(self.cfg.model), "text": settings(self.cfg.text), "files": [state(f) for f in files]}

    def path(self, name: str) -> Path:
        """A file of the run folder."""
        return self.folder / name


def state(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of those directly in a folder: another content, another state."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def settings(cfg: DictConfig) -> object:
    """A config node as plain data."""
    return OmegaConf.to_container(cfg, resolve=True)


def model_label(cfg: DictConfig) -> str:
    """The model's name for folders: the last part of its path, without hash and ending."""
    name = str(cfg.model.path).split("#")[0].rstrip("/").split("/")[-1]
    return name.removesuffix(".gguf")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    frame.to_csv(temporary, index=False)
    temporary.replace(path)
