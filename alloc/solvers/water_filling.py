r"""Reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3): the bound that palettes approach.

    minimise  sum_l a_l 4^(-b_l)   s.t.  sum_l n_l b_l <= M,  b_l >= eta_l
    b_l = max(eta_l, log2(a_l / n_l) / 2 + C)

(the rates of D = 4^(-b); a model of another slope s, such as one fitted to a family, has log2(a_l / n_l) / s in its
place), with C from the budget: the layers above their floor are those with the largest log2(a_l / n_l) / 2 - eta_l, so
a sort and one sum per candidate give it exactly, O(layers log layers). On a palette every option has loss >= c a_l D(b)
for the best c over its options; c times the ideal is then a bound of the discrete problem (a lossless option, fp16, is
allowed for by what the curve would charge it)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.rate_distortion import GAUSSIAN, Exponential
from alloc.solution import Solution
from alloc.solvers.certificate import certify, out_of_reach
from alloc.solvers.rounding import fit

Floats = NDArray[np.float64]


def water_fill(
    sensitivity: Floats, params: Floats, bits: float, floor: Floats, model: Exponential = GAUSSIAN
) -> Floats:
    """(layers,) optimal rates for `bits` = M in total. Raises ValueError where the floors alone need more."""
    spent = float((params * floor).sum())
    if spent > bits * (1 + 1e-12):
        raise ValueError(f"{bits:g} bits are below the floors' {spent:g}")
    rates = np.array(floor, float)
    live = np.flatnonzero(sensitivity > 0)
    if not len(live):
        return rates
    level = np.log2(sensitivity[live] / params[live]) / model.slope
    order = live[np.argsort(-(level - floor[live]), kind="stable")]
    level = np.log2(sensitivity[order] / params[order]) / model.slope
    weight = np.cumsum(params[order])
    # C if exactly the first k layers are above their floor
    free = bits - spent + np.cumsum(params[order] * (floor[order] - level))
    constants = free / weight
    first_closed = np.append(floor[order][1:] - level[1:], np.inf)
    above = int(np.argmax(constants <= first_closed))
    rates[order[: above + 1]] = np.maximum(level[: above + 1] + constants[above], floor[order[: above + 1]])
    return rates


def ideal_loss(sensitivity: Floats, rates: Floats, model: Exponential = GAUSSIAN) -> float:
    """sum_l a_l D(b_l), nats/token."""
    return float((sensitivity * model.distortion(rates)).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class WaterFilling:
    """One memory budget: each layer takes the richest option within its ideal rate, then the slack is spent.

    `model`: the law whose optimum is the start and, times the best factor that holds for every option, the bound."""

    tolerance: float = 1e-9
    model: Exponential = GAUSSIAN

    name: ClassVar[str] = "water_filling"
    exact: ClassVar[bool] = False
    max_budgets: ClassVar[int | None] = 1

    def solve(self, problem: Problem) -> Solution:
        """Raises ValueError unless memory is the only budget."""
        started = time.perf_counter()
        if [unit.name for unit in problem.units] != ["memory_bytes"]:
            names = ", ".join(unit.name for unit in problem.units)
            raise ValueError(f"water_filling takes one budget on memory, not {names}; solver=exact takes any")
        layers = np.array([members[0] for members in problem.members])
        a, n = problem.tables.sensitivity[layers], problem.tables.params[layers].astype(float)
        counts, starts = np.diff(problem.offsets), problem.offsets[:-1]
        option_bits = 8.0 * problem.costs[0] / n.repeat(counts)
        floor = np.minimum.reduceat(option_bits, starts)
        rates = water_fill(a, n, 8.0 * float(problem.limits[0]), floor, self.model)

        curve = a.repeat(counts) * self.model.distortion(option_bits)
        lossy = (problem.loss > 0) & (curve > 0)
        factor = float((problem.loss[lossy] / curve[lossy]).min()) if lossy.any() else 0.0
        forgiven = np.maximum.reduceat(np.where(problem.loss > 0, 0.0, curve), starts).sum()
        bound = factor * (ideal_loss(a, rates, self.model) - float(forgiven)) if (problem.loss >= 0).all() else -np.inf

        within = option_bits <= rates.repeat(counts) * (1 + 1e-12)
        richest = np.maximum.reduceat(np.where(within, np.arange(len(within)), -1), starts)
        plan = fit(problem, np.maximum(richest, starts))
        if plan is None:
            raise out_of_reach(problem)
        above = rates > floor
        # d loss / d byte where the rate is free: a s ln 2 D(b) 8 / n, equal for all such layers
        steepness = 8.0 * self.model.slope * np.log(2.0)
        slopes = a[above] * self.model.distortion(rates[above]) * steepness / n[above]
        price = factor * float(slopes.max()) if above.any() else 0.0
        return certify(
            problem,
            plan,
            lower_bound=bound,
            prices=np.array([price]),
            tolerance=self.tolerance,
            solver=self.name,
            started=started,
        )
