r"""What two budgets can reach together: with one at its limit, the smallest feasible value of the other.

The same problem with the other cost in place of the loss, so the exact solver answers it, with a bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alloc.pareto import fronts
from alloc.problem import Problem
from alloc.solvers.exact import Exact

# A tenth of what the solver may spend on a plan: this only words an error
MOST_WORK = 2_000_000


def smallest_joint(problem: Problem) -> list[str]:
    """For each of two budgets, a phrase: the smallest value that a plan can have with the other at its limit."""
    if len(problem.limits) != 2:
        return []
    scope, phrases = problem.scope, []
    for at in (0, 1):
        other, unit = 1 - at, problem.units[at]
        loss, costs = problem.costs[at].astype(np.float64), np.ascontiguousarray(problem.costs[[other]])
        kept, offsets = fronts(problem.offsets, loss, costs)
        swapped = replace(
            problem,
            units=(problem.units[other],),
            limits=problem.limits[[other]],
            offsets=offsets,
            loss=loss[kept],
            costs=np.ascontiguousarray(costs[:, kept]),
            blocks=problem.blocks[kept],
        )
        plan, bound, _ = Exact(most_work=MOST_WORK).plan(swapped)
        least = round(swapped.loss[plan].sum())
        held = problem.units[other].describe(scope.limits[problem.units[other].name], scope.params, scope.batch)
        word = "smallest" if bound >= least * (1 - 1e-12) else "smallest found"
        phrases.append(f"at {held} the {word} is {unit.describe(unit.natural(least), scope.params, scope.batch)}")
    return phrases
