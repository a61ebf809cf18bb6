"""What states buy a trellis: the palette measured at every number of state bits, and the optimum with it.

Twice the states cost twice the search, nothing in storage and (for a computed code) nothing in decoding. The
distortions are measured here on a Gaussian source, the same one for every L, and kept. A quantizer whose step takes in
more bits than L has none: the palette of that L goes without it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pandas as pd

from alloc.tables import Tables
from experiments.progress import bar
from experiments.studies.cell import Cell, Encoding, Material, bits, skipped, solved
from experiments.workspace import write_csv
from quantizers import make_quantizer, palette
from quantizers.base import Quantizer
from quantizers.distortion import gaussian_distortion

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBits:
    """`members`: shell patterns of trellis quantizers; `weights`: numbers of the source."""

    members: Sequence[str]
    state_bits: Sequence[int] = (8, 9, 10, 11, 12, 13, 14, 15, 16)
    bits: Sequence[float] = (2.5, 3.25, 4.25)
    weights: int = 32768
    seed: int = 0
    baseline: str = "L = 12"

    name: ClassVar[str] = "state_bits"

    def cells(self, material: Material) -> list[Cell]:
        """Every number of state bits at every rate; those of the members that the tables have."""
        budgets = [bits(value) for value in self.bits]
        tables = material.tables
        wanted = {quantizer.name for quantizer in palette(self.members)}
        known = [name for name in tables.quantizers if name in wanted]
        if not known:
            reason = f"quantizers.csv has none of {', '.join(self.members)}"
            return [cell for L in self.state_bits for cell in skipped(f"L = {L}", budgets, reason)]
        curve = self.curve(material, known)
        found = []
        for budget in budgets:
            for L in self.state_bits:
                rows = curve[curve.state_bits == L]
                own = with_distortion(tables, dict(zip(rows.quantizer, rows.distortion, strict=True)))
                found.append(
                    solved(f"L = {L}", budget, own, members=list(rows.quantizer), encoding=Encoding(state_bits=L))
                )
        return found

    def curve(self, material: Material, names: Sequence[str]) -> pd.DataFrame:
        """state_bits.csv of the run's folder: quantizer, state_bits, distortion, standard_error."""
        path = material.stages.folder / "state_bits.csv"

        def work() -> None:
            rows = []
            chosen = [(L, quantizer) for L in self.state_bits for quantizer in with_states(names, L)]
            with bar("state bits") as progress:
                for L, quantizer in chosen:
                    distortion, error = gaussian_distortion(quantizer, weights=self.weights, seed=self.seed)
                    rows.append((quantizer.name, L, distortion, error))
                    progress(len(rows), len(chosen), f"{quantizer.name} L = {L}")
            write_csv(pd.DataFrame(rows, columns=["quantizer", "state_bits", "distortion", "standard_error"]), path)

        settings = [
            [quantizer.settings() for quantizer in palette(names)],
            list(self.state_bits),
            self.weights,
            self.seed,
        ]
        material.stages.run("state bits", work, settings=settings, writes=[path], share=True)
        return pd.read_csv(path)


def with_states(names: Sequence[str], state_bits: int) -> list[Quantizer]:
    """The quantizers of `names` that exist at so many state bits."""
    found = []
    for name in names:
        try:
            found.append(make_quantizer(name, state_bits))
        except ValueError as error:
            log.info("%s: %s", name, error)
    return found


def with_distortion(tables: Tables, distortion: dict[str, float]) -> Tables:
    """`tables` with the loss of these quantizers from a new distortion, the same for every layer."""
    loss, own = tables.loss.copy(), tables.distortion.copy()
    for name, value in distortion.items():
        at = tables.quantizer_index(name)
        own[at] = value
        loss[:, at] = tables.sensitivity * value
    return replace(tables, distortion=own, loss=loss)
