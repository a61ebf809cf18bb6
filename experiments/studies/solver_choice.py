"""What a better solver buys: every solver on one problem, from one quantizer for all layers to the proven optimum.

With a model at hand there is EvoPress too (Sieberling et al., 2024, arXiv 2410.14649): a search whose fitness is the
measured KL of a plan, from the greedy plan. Its predicted loss may rise; what it is after is the measured one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from alloc.solution import read_allocation, write_allocation
from alloc.solvers import Evolutionary, Solver
from experiments.studies.cell import Cell, Material, bits, low_rate, skipped, solved
from experiments.studies.measured_fitness import MeasuredFitness
from experiments.workspace import settings

MEASURED = "evolutionary, measured KL"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitnessText:
    """`windows` of `tokens` calibration tokens, on which a search measures its plans."""

    windows: int = 2
    tokens: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverChoice:
    """`solvers`: name -> solver; `search`: the evolutionary solver with measured fitness, where there is a model."""

    solvers: Mapping[str, Solver]
    baseline: str = "exact"
    members: Sequence[str] | None = None
    bits: Sequence[float] = (2.5, 3.25, 4.25)
    search: Evolutionary = field(default_factory=Evolutionary)
    text: FitnessText = field(default_factory=FitnessText)

    name: ClassVar[str] = "solver"

    def cells(self, material: Material) -> list[Cell]:
        """Every solver at every rate."""
        members = low_rate(self.members, material.tables)
        found = []
        for value in self.bits:
            budget = bits(value)
            found += [
                solved(name, budget, material.tables, solver=solver, members=members)
                for name, solver in self.solvers.items()
            ]
            found += self._searched(material, value, members)
        return found

    def _searched(self, material: Material, value: float, members: list[str]) -> list[Cell]:
        """The search with measured fitness, done once: its plan stands in the run's folder."""
        budget, run = bits(value), material.run
        if run is None:
            return skipped(MEASURED, [budget], "needs a model: measure=true")
        path = material.stages.folder / "plans" / f"evolutionary-measured-{value:g}" / "allocation.json"
        kept: list[Cell] = []

        def work() -> None:
            search = Evolutionary(
                generations=self.search.generations,
                offspring=self.search.offspring,
                switches=self.search.switches,
                seed=self.search.seed,
                fitness=MeasuredFitness.on(run, windows=self.text.windows, tokens=self.text.tokens),
            )
            cell = solved(MEASURED, budget, material.tables, solver=search, members=members)
            kept.append(cell)
            if cell.solution is not None:
                write_allocation(path, cell.solution, material.tables)

        inputs: list[Any] = [run.source(), settings(run.cfg.rotation), run.cfg.state_bits, value, members]
        inputs += [str(self.search), str(self.text), dict(material.tables.hashes)]
        material.stages.run(f"search {value:g} bits", work, settings=inputs, writes=[path])
        if kept:
            return kept
        solution = read_allocation(path)
        return [
            Cell(
                variant=MEASURED,
                budget=budget[0],
                predicted_loss=solution.objective,
                lower_bound=solution.lower_bound,
                solution=solution,
            )
        ]
