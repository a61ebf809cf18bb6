"""What each part of the method buys: one study a file, each a frozen object made by conf/study/NAME.yaml.

A study turns tables into cells (`study.cells(material)`): one variant under one budget, a plan or the reason for none.
`baseline` is the variant that the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from experiments.studies.budget_scope import BudgetScope
from experiments.studies.cell import Cell, Material
from experiments.studies.error_feedback import ErrorFeedback
from experiments.studies.latency_options import Fusion, Kernels
from experiments.studies.palette_ladder import PaletteLadder
from experiments.studies.rotation_seeds import RotationSeeds
from experiments.studies.sensitivity_methods import SensitivityMethods
from experiments.studies.solver_choice import SolverChoice
from experiments.studies.state_bits import StateBits

__all__ = ["STUDIES", "Cell", "Material", "Study"]


class Study(Protocol):
    """What experiments.ablate calls."""

    name: ClassVar[str]

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with at equal budget."""

    def cells(self, material: Material) -> Sequence[Cell]:
        """Every variant under every budget, in the order of the table."""


STUDIES: tuple[type[Study], ...] = (
    PaletteLadder, Fusion, Kernels, SolverChoice, SensitivityMethods, RotationSeeds, ErrorFeedback, StateBits,
    BudgetScope,
)  # fmt: skip
