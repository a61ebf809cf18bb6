r"""Continuous relaxations by cvxpy (Diamond and Boyd, 2016, arXiv 1603.00943).

`Convex` relaxes the discrete problem, fusion options and all: x[o] in [0, 1] with sum one per group. Its dual prices p,
put into the Lagrangian D(p), give a bound that holds whatever the program's own tolerance was; its largest x is rounded
to a plan. `continuous_rates` is the problem with continuous rates, min sum a D(b) for a convex rate-distortion model
and any number of linear budgets, which the closed form of water-filling must reproduce where both apply."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.rate_distortion import Exponential, Hull
from alloc.solution import Solution
from alloc.solvers.certificate import certify, out_of_reach
from alloc.solvers.dual import cheapest, dual_value
from alloc.solvers.rounding import fit

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Convex:
    """Linear relaxation, any number of budgets."""

    tolerance: float = 1e-9

    name: ClassVar[str] = "convex"
    exact: ClassVar[bool] = False
    max_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError where the relaxation meets no combination of the budgets."""
        import cvxpy as cp
        from scipy.sparse import csr_matrix

        started = time.perf_counter()
        counts, starts = np.diff(problem.offsets), problem.offsets[:-1]
        count = len(problem.loss)
        one_each = csr_matrix((np.ones(count), np.arange(count), problem.offsets), shape=(problem.groups, count))
        # costs from each group's least, as shares of the room they leave
        least = np.minimum.reduceat(problem.costs, starts, axis=1)
        room = problem.limits - least.sum(axis=1)
        scale = np.maximum(room, 1).astype(float)
        extra = (problem.costs - least.repeat(counts, axis=1)) / scale[:, None]
        size = max(float(np.abs(problem.loss).max()), 1e-300)
        x = cp.Variable(count, nonneg=True)
        budgets = extra @ x <= room / scale
        program = cp.Problem(cp.Minimize((problem.loss / size) @ x), [one_each @ x == 1, budgets])
        program.solve(solver=cp.HIGHS)
        if program.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
            raise out_of_reach(problem)
        prices = np.maximum(np.asarray(budgets.dual_value, float), 0.0) * size / scale
        bound = dual_value(problem, prices, cheapest(problem.offsets, problem.loss, problem.costs, prices, 1.0))
        share = np.asarray(x.value, float)
        best = [start + int(np.argmax(share[start:stop])) for start, stop in zip(starts, starts + counts, strict=True)]
        plan = fit(problem, np.array(best))
        if plan is None:
            raise out_of_reach(problem)
        return certify(
            problem,
            plan,
            lower_bound=bound,
            prices=prices,
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
            uniform_floor=True,
        )


def continuous_rates(
    model: Exponential | Hull, sensitivity: Floats, floor: Floats, costs: Floats, limits: Floats, most: float = 16.0
) -> Floats:
    """(layers,) rates between `floor` and `most` that minimise sum_l a_l D(b_l) s.t. costs @ b <= limits.

    costs: (budgets, layers) per bit of rate, such as the number of weights; limits: (budgets,). Raises ValueError where
    the floors break a limit."""
    import cvxpy as cp

    if (costs @ floor > limits * (1 + 1e-12)).any():
        worst = int(np.argmax(costs @ floor / limits))
        raise ValueError(f"limit {limits[worst]:g} is below the floors' {float(costs[worst] @ floor):g}")
    rates = cp.Variable(len(sensitivity))
    loss = cp.sum(cp.multiply(sensitivity / float(sensitivity.max()), model.expression(rates)))
    shares = costs / limits[:, None]
    program = cp.Problem(cp.Minimize(loss), [shares @ rates <= 1, rates >= floor, rates <= most])
    program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return np.asarray(rates.value, float)
