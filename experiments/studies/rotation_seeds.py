"""What the rotation buys, and what its random signs cost: one plan, encoded without a rotation and with several seeds.

The tables hold the distortions of a Gaussian source, which is what a rotated weight looks like: they predict the same
loss for every seed, and nothing for a weight that is not rotated. Only a measurement tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from experiments.studies.cell import Cell, Encoding, Material, bits, low_rate, solved

NONE = "no rotation"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationSeeds:
    """The optimal plan of each rate under every one of `seeds`, and without a rotation."""

    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    members: Sequence[str] | None = None
    bits: Sequence[float] = (2.5, 3.25, 4.25)
    baseline: str = "seed 0"

    name: ClassVar[str] = "rotation"

    def cells(self, material: Material) -> list[Cell]:
        """Without and with each seed at every rate."""
        members = low_rate(self.members, material.tables)
        found = []
        for value in self.bits:
            budget = bits(value)
            plain = Encoding(rotated=False)
            found.append(solved(NONE, budget, material.tables, members=members, encoding=plain, predicts=False))
            found += [
                solved(f"seed {seed}", budget, material.tables, members=members, encoding=Encoding(rotation_seed=seed))
                for seed in self.seeds
            ]
        return found
