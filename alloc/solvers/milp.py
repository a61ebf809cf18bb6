r"""The same problem as a mixed-integer linear program (PuLP; HiGHS or CBC): the independent check of the exact solver.

    x[o] in {0, 1},  sum_{o of g} x[o] = 1,  sum_o cost[b, o] x[o] <= limit[b],  minimise sum_o loss[o] x[o]

Costs count from each group's smallest and both sides are scaled: the programs work to absolute tolerances of about
1e-7. Their answer is re-priced in exact integers and repaired where it overruns a limit, and the bound is the branch
and bound's own: PuLP calls a plan "Optimal" after a time-out too, so `sol_status` is read and the bound decides."""

from __future__ import annotations

import math
import re
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.solution import Solution
from alloc.solvers.certificate import certify, out_of_reach
from alloc.solvers.dual import peak
from alloc.solvers.rounding import fit

Ints = NDArray[np.int64]
# The scaled objective is of this size and costs of COST_SIZE, so that an absolute tolerance of 1e-7 is 1e-11 relative
OBJECTIVE_SIZE = 1e4
COST_SIZE = 1e6


class Backend(ABC):
    """One mixed-integer solver behind PuLP."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For Solution.solver."""

    @abstractmethod
    def run(self, program: Any, time_limit_s: float) -> float:
        """Solve the PuLP program in place; the proven lower bound of its scaled objective, -inf where none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Highs(Backend):
    """HiGHS in this process (highspy); the bound is its `mip_dual_bound`."""

    threads: int = 0

    @property
    def name(self) -> str:
        """For Solution.solver."""
        return "milp-highs"

    def run(self, program: Any, time_limit_s: float) -> float:
        """See Backend."""
        import pulp

        options = {"mip_abs_gap": 0.0, "mip_feasibility_tolerance": 1e-9, "threads": self.threads}
        program.solve(pulp.HiGHS(msg=False, timeLimit=time_limit_s, gapRel=0.0, **options))
        return float(program.solverModel.getInfo().mip_dual_bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cbc(Backend):
    """CBC, the program that PuLP ships; its bound stands in its log."""

    @property
    def name(self) -> str:
        """For Solution.solver."""
        return "milp-cbc"

    def run(self, program: Any, time_limit_s: float) -> float:
        """See Backend."""
        import pulp

        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "cbc.log"
            program.solve(
                pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit_s, gapRel=0.0, gapAbs=0.0, logPath=str(log))
            )
            text = log.read_text(errors="replace")
        proven = "Optimal solution found" in text
        found = re.findall(
            r"(?:Objective value|Lower bound):\s+(-?[\d.]+(?:e[+-]?\d+)?)"
            if proven
            else r"Lower bound:\s+(-?[\d.]+(?:e[+-]?\d+)?)",
            text,
        )
        return float(found[-1]) if found else -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Milp:
    """General mixed-integer solver; any number of budgets."""

    backend: Backend = field(default_factory=Highs)
    time_limit_s: float = 60.0
    tolerance: float = 1e-9

    name: ClassVar[str] = "milp"
    exact: ClassVar[bool] = True
    max_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no plan within the limits is found in time."""
        started = time.perf_counter()
        program, variables, scale, offset = _program(problem)
        bound = self.backend.run(program, self.time_limit_s)
        chosen = _chosen(problem, program, variables)
        dual = peak(problem)
        plan = fit(problem, chosen if chosen is not None else dual.plans[-1])
        if plan is None:
            raise out_of_reach(problem)
        return certify(
            problem,
            plan,
            lower_bound=max(bound / scale + offset, dual.bound),
            prices=dual.prices,
            tolerance=self.tolerance,
            solver=self.backend.name,
            started=started,
            uniform_floor=True,
        )


def _program(problem: Problem) -> tuple[Any, list[Any], float, float]:
    """(program, a variable per option, scale and offset): objective = scale * (loss - offset)."""
    import pulp

    starts, counts = problem.offsets[:-1], np.diff(problem.offsets)
    least = np.minimum.reduceat(problem.loss, starts)
    offset = float(least.sum())
    extra = problem.loss - least.repeat(counts)
    size = float(np.maximum.reduceat(extra, starts).sum())
    scale = OBJECTIVE_SIZE / size if size > 0 else 1.0
    program = pulp.LpProblem("allocation", pulp.LpMinimize)
    variables = [pulp.LpVariable(f"x{option}", cat="Binary") for option in range(len(extra))]
    program += pulp.LpAffineExpression(list(zip(variables, (extra * scale).tolist(), strict=True)))
    for start, count in zip(starts, counts, strict=True):
        program += pulp.LpAffineExpression([(variables[o], 1.0) for o in range(start, start + count)]) == 1.0
    for cost, limit in zip(problem.costs, problem.limits, strict=True):
        smallest = np.minimum.reduceat(cost, starts)
        over = cost - smallest.repeat(counts)
        room = int(limit - smallest.sum())
        unit = COST_SIZE / max(float(np.maximum.reduceat(over, starts).sum()), 1.0)
        row = pulp.LpAffineExpression(list(zip(variables, (over * unit).tolist(), strict=True)))
        program += row <= room * unit
    return program, variables, scale, offset


def _chosen(problem: Problem, program: Any, variables: list[Any]) -> Ints | None:
    """(groups,) the largest variable of each group; None where the solver has no plan."""
    import pulp

    if program.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return None
    values = np.array([variable.varValue or 0.0 for variable in variables])
    bounds = zip(problem.offsets[:-1], problem.offsets[1:], strict=True)
    return np.array([start + int(np.argmax(values[start:stop])) for start, stop in bounds], np.int64)
