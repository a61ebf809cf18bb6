r"""Other mixed-integer programs, for the benchmark alone: the same program as alloc/solvers/milp.py without PuLP.

    x[o] in {0, 1},  sum_{o of g} x[o] = 1,  sum_o cost[b, o] x[o] <= limit[b],  minimise sum_o loss[o] x[o]

Their plans are repaired and re-priced as PuLP's are, and their bounds are their own. highspy and ortools cannot be
imported in one process; nothing here imports either before it solves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.solution import Solution
from alloc.solvers.certificate import certify, out_of_reach
from alloc.solvers.dual import peak
from alloc.solvers.rounding import fit

Floats = NDArray[np.float64]
# the objective and the budgets are of these sizes: the programs work to absolute tolerances of 1e-6 to 1e-7
OBJECTIVE_SIZE, COST_SIZE = 1e4, 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`loss` (options,) and `costs` (budgets, options) from each group's least; loss = objective / scale + offset."""

    loss: Floats
    costs: Floats
    room: Floats  # (budgets,)
    scale: float
    offset: float


def program_of(problem: Problem) -> Program:
    """The scaled program of a problem."""
    starts, counts = problem.offsets[:-1], np.diff(problem.offsets)
    least = np.minimum.reduceat(problem.loss, starts)
    extra = problem.loss - least.repeat(counts)
    scale = OBJECTIVE_SIZE / max(float(np.maximum.reduceat(extra, starts).sum()), 1e-300)
    cheapest = np.minimum.reduceat(problem.costs, starts, axis=1)
    over = problem.costs - cheapest.repeat(counts, axis=1)
    unit = COST_SIZE / np.maximum(np.maximum.reduceat(over, starts, axis=1).sum(axis=1), 1).astype(float)
    room = (problem.limits - cheapest.sum(axis=1)) * unit
    return Program(loss=extra * scale, costs=over * unit[:, None], room=room, scale=scale, offset=float(least.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScipyMilp:
    """scipy.optimize.milp: the HiGHS that SciPy ships."""

    time_limit_s: float = 60.0

    name: ClassVar[str] = "scipy-milp"
    exact: ClassVar[bool] = True
    max_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no plan within the limits is found in time."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_matrix

        started = time.perf_counter()
        program, count = program_of(problem), len(problem.loss)
        one_each = csr_matrix((np.ones(count), np.arange(count), problem.offsets), shape=(problem.groups, count))
        result = milp(
            program.loss,
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(program.costs, -np.inf, program.room)],
            options={"time_limit": self.time_limit_s, "mip_rel_gap": 0.0},
        )
        bound = result.mip_dual_bound if result.mip_dual_bound is not None else -np.inf
        return _answer(problem, program, result.x, float(bound), self.name, started)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrTools:
    """Google OR-Tools; `backend`: SCIP, or SAT for CP-SAT."""

    backend: str = "SCIP"
    time_limit_s: float = 60.0

    exact: ClassVar[bool] = True
    max_budgets: ClassVar[int | None] = None

    @property
    def name(self) -> str:
        """For Solution.solver."""
        return f"ortools-{self.backend.lower()}"

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where no plan within the limits is found in time."""
        from ortools.linear_solver import pywraplp

        started = time.perf_counter()
        program = program_of(problem)
        solver = pywraplp.Solver.CreateSolver(self.backend)
        solver.SetTimeLimit(round(1e3 * self.time_limit_s))
        x = [solver.BoolVar("") for _ in program.loss]
        for start, stop in zip(problem.offsets[:-1], problem.offsets[1:], strict=True):
            solver.Add(solver.Sum(x[start:stop]) == 1)
        for costs, room in zip(program.costs, program.room, strict=True):
            row = solver.Constraint(-solver.infinity(), float(room))
            for variable, cost in zip(x, costs, strict=True):
                row.SetCoefficient(variable, float(cost))
        objective = solver.Objective()
        for variable, loss in zip(x, program.loss, strict=True):
            objective.SetCoefficient(variable, float(loss))
        objective.SetMinimization()
        parameters = pywraplp.MPSolverParameters()
        parameters.SetDoubleParam(parameters.RELATIVE_MIP_GAP, 0.0)
        status = solver.Solve(parameters)
        found = status in (solver.OPTIMAL, solver.FEASIBLE)
        values = np.array([variable.solution_value() for variable in x]) if found else None
        bound = float(objective.BestBound()) if found else -np.inf
        return _answer(problem, program, values, bound, self.name, started)


def _answer(
    problem: Problem, program: Program, values: Floats | None, bound: float, name: str, started: float
) -> Solution:
    dual = peak(problem)
    chosen = dual.plans[-1]
    if values is not None:
        pairs = zip(problem.offsets[:-1], problem.offsets[1:], strict=True)
        chosen = np.array([start + int(np.argmax(values[start:stop])) for start, stop in pairs], np.int64)
    plan = fit(problem, chosen)
    if plan is None:
        raise out_of_reach(problem)
    return certify(
        problem,
        plan,
        lower_bound=max(bound / program.scale + program.offset, dual.bound),
        prices=dual.prices,
        tolerance=1e-9,
        solver=name,
        started=started,
    )


def installed_rivals(time_limit_s: float) -> list[Any]:
    """Those whose package is there."""
    rivals: list[Any] = [ScipyMilp(time_limit_s=time_limit_s)]
    if find_spec("ortools") is not None:
        rivals += [OrTools(backend=backend, time_limit_s=time_limit_s) for backend in ("SCIP", "SAT")]
    return rivals
