"""What a sensitivity method buys: the plan that each one leads to, all priced by the tables' own sensitivities.

A method may be wrong by a factor without harm: plans depend on ratios. So besides the loss of its plan there is the
rank correlation of every pair of methods (Spearman, over layers), in rank_correlation.csv. The methods' values are the
columns of sensitivities.csv in the tables folder; with a model at hand they are measured and written there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from alloc.pricing import plan_loss
from alloc.sensitivity.one_layer import OneLayer
from alloc.sensitivity.table import Progress, Slots
from alloc.tables import Tables
from analysis.ablation import rank_correlations
from experiments.progress import bar
from experiments.studies.cell import Cell, Material, bits, low_rate, skipped, solved
from experiments.workspace import Workspace, settings, write_csv
from quantizers import make_quantizer

FILE = "sensitivities.csv"
OWN = "tables"
ONE_LAYER = "one_layer"


class Method(Protocol):
    """A class of alloc.sensitivity."""

    def measure(
        self,
        model: nn.Module,
        slots: Slots,
        windows: torch.Tensor,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Rows layer, sensitivity, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityMethods:
    """`methods`: name -> method; `one_layer`: the truth, a quantizer put on each layer alone (None: not measured), on
    `count` windows of `tokens`."""

    methods: Mapping[str, Method]
    one_layer: str | None = None
    count: int = 1
    tokens: int = 256
    members: Sequence[str] | None = None
    bits: Sequence[float] = (2.5, 3.25, 4.25)
    baseline: str = OWN

    name: ClassVar[str] = "sensitivity"

    def cells(self, material: Material) -> list[Cell]:
        """The tables' own sensitivities, then every method's."""
        tables = material.tables
        members = low_rate(self.members, tables)
        values = self.values(material)
        write_csv(rank_correlations(values), material.stages.folder / "rank_correlation.csv")
        found = []
        for value in self.bits:
            budget = bits(value)
            own = solved(OWN, budget, tables, members=members)
            found.append(own)
            for method in (*self.methods, *([ONE_LAYER] if self.one_layer else [])):
                if method not in values.columns:
                    reason = f"{FILE} has no column {method}; measure=true measures it"
                    found += skipped(method, [budget], reason)
                    continue
                other = solved(method, budget, with_sensitivity(tables, values[method]), members=members)
                found.append(repriced(other, own, tables))
        return found

    def values(self, material: Material) -> pd.DataFrame:
        """One row a layer with a sensitivity (index: its name), one column a method: those measured, those of the
        tables folder, the tables' own, and `constant`, which needs neither."""
        tables = material.tables
        free = tables.allocatable
        names = [name for name, kept in zip(tables.layers, free, strict=True) if kept]
        frame = pd.DataFrame({OWN: tables.sensitivity[free]}, index=pd.Index(names, name="layer"))
        if "constant" in self.methods:
            frame["constant"] = tables.params[free] / tables.params[free].sum()
        path = material.folder / FILE
        if material.run is not None:
            path = material.stages.folder / FILE
            self._measure(material.run, path)
        if path.is_file():
            given = pd.read_csv(path).set_index("layer")
            absent = sorted(set(names) - set(given.index))
            if absent:
                raise ValueError(f"{path} lacks the layer {absent[0]!r}")
            for column in given.columns:
                frame[column] = given[column].reindex(names).to_numpy(dtype=float)
        return frame

    def _measure(self, run: Workspace, path: Path) -> None:
        parts = [self._measured(run, name, method) for name, method in self.methods.items()]
        if self.one_layer:
            parts.append(self._truth(run, self.one_layer))
        write_csv(pd.concat([pd.read_csv(part).set_index("layer") for part in parts], axis=1).reset_index(), path)

    def _measured(self, run: Workspace, name: str, method: Method) -> Path:
        """One method's column as a file, measured once."""
        path = run.path(f"sensitivity/{name}.csv")

        def work() -> None:
            generator = torch.Generator().manual_seed(run.cfg.seed)
            with bar(name) as progress:
                found = method.measure(
                    run.loaded.model, run.slots, run.calibration_windows(), generator=generator, progress=progress
                )
            write_csv(found[["layer", "sensitivity"]].rename(columns={"sensitivity": name}), path)

        inputs = [run.source(), settings(run.cfg.calibration), run.cfg.seed, name, str(method)]
        run.stages.run(f"sensitivity {name}", work, settings=inputs, writes=[path], share=True)
        return path

    def _truth(self, run: Workspace, quantizer_name: str) -> Path:
        """KL of each layer alone quantized, over its distortion."""
        path = run.path(f"sensitivity/{ONE_LAYER}.csv")

        def work() -> None:
            quantizer = make_quantizer(quantizer_name, state_bits=run.cfg.state_bits)

            def decode(layer: str) -> torch.Tensor:
                rotation = run.rotation(layer)
                rotated = rotation.rotate_weight(run.slots[layer].weight)
                return rotation.unrotate_weight(quantizer.decode(quantizer.encode(rotated)))

            method = OneLayer(decode=decode, quantizer=quantizer_name, count=self.count, tokens=self.tokens)
            with bar(f"one layer at a time, {quantizer_name}") as progress:
                found = method.measure(run.loaded.model, run.slots, run.calibration_windows(), progress=progress)
            write_csv(pd.DataFrame({"layer": found.layer, ONE_LAYER: found.loss / found.distortion}), path)

        inputs = [run.source(), settings(run.cfg.calibration), settings(run.cfg.rotation), run.cfg.state_bits]
        inputs += [quantizer_name, self.count, self.tokens]
        run.stages.run("sensitivity one layer", work, settings=inputs, writes=[path], share=True)
        return path


def with_sensitivity(tables: Tables, values: pd.Series) -> Tables:
    """`tables` with other sensitivities (index: layer), the distortions of every layer kept; below 0 counts as 0."""
    own = tables.sensitivity
    new: NDArray[np.float64] = np.array(
        [max(float(values[name]), 0.0) if name in values.index else math.nan for name in tables.layers]
    )
    scale = np.divide(new, own, out=np.zeros_like(new), where=own > 0)
    # a layer of sensitivity 0 says nothing of its distortion but the quantizer's
    loss = np.where((own > 0)[:, None], tables.loss * scale[:, None], new[:, None] * tables.distortion[None, :])
    return replace(tables, sensitivity=new, loss=loss)


def repriced(cell: Cell, own: Cell, tables: Tables) -> Cell:
    """The same plan, its loss and bound those of the tables' own sensitivities."""
    if cell.solution is None:
        return cell
    return replace(cell, predicted_loss=plan_loss(tables, cell.solution.layers), lower_bound=own.lower_bound)
