"""What error feedback buys at equal bytes: one plan, every column for itself and with each method of feedback.

The tables predict plain encoding only; with feedback the measured loss is far below (quantizers.feedback)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from experiments.studies.cell import Cell, Encoding, Material, bits, low_rate, skipped, solved
from quantizers.feedback import Feedback

NO_MOMENTS = "needs hessians=DIR, which python -m experiments.calibrate out=DIR writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFeedback:
    """The optimal plan of each rate, encoded with every method (name -> method)."""

    methods: Mapping[str, Feedback]
    baseline: str = "none"
    members: Sequence[str] | None = None
    bits: Sequence[float] = (2.5, 3.25, 4.25)

    name: ClassVar[str] = "feedback"

    def cells(self, material: Material) -> list[Cell]:
        """Every method at every rate; those that read second moments are skipped without `hessians`."""
        members = low_rate(self.members, material.tables)
        found = []
        for value in self.bits:
            for name, method in self.methods.items():
                if method.needs_moments and material.hessians is None:
                    found += skipped(name, [bits(value)], NO_MOMENTS)
                    continue
                found.append(
                    solved(
                        name,
                        bits(value),
                        material.tables,
                        members=members,
                        encoding=Encoding(feedback=method),
                        predicts=not method.needs_moments,
                    )
                )
        return found
