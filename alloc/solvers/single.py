r"""Single-quantizer plans: what every mixed answer is held against, and never worse than.

For each quantizer the problem that leaves every layer that quantizer, or its pin; what is left to choose is the fastest
partition and kernel of a group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alloc.fusion import NoOptionError
from alloc.problem import Problem, lay_out
from alloc.scope import Scope
from alloc.solvers.columns import cheapest

Ints = NDArray[np.int64]


def uniform_problems(problem: Problem) -> list[Problem]:
    """For each quantizer that can store every layer, its problem."""
    problems = []
    for scope in uniform_scopes(problem.scope):
        # a quantizer that the latency table does not have for every layer makes no uniform plan
        with suppress(NoOptionError):
            problems.append(lay_out(scope))
    return problems


def uniform_scopes(scope: Scope) -> Iterator[Scope]:
    """The scope of each quantizer: free layers may have it alone, pinned ones keep their pin."""
    free = scope.allowed.sum(axis=1) > 1
    single = scope.allowed & ~free[:, None]
    for quantizer in np.flatnonzero(scope.allowed[scope.allocated].any(axis=0)):
        allowed = single.copy()
        allowed[free, quantizer] = scope.allowed[free, quantizer]
        if allowed[scope.allocated].any(axis=1).all():
            yield replace(scope, allowed=allowed)


def fastest(problem: Problem) -> Ints:
    """(groups,) the cheapest option of each, each cost over its largest: the quantizers are given."""
    return cheapest(problem.offsets, problem.loss, problem.costs, 1.0 / np.maximum(problem.costs.max(axis=1), 1), 0.0)


def better_uniform(problem: Problem, objective: float) -> Ints | None:
    """(groups,) options within the budgets that lose no more than a uniform plan, and less than `objective`, if any.

    In place of a uniform plan's option, which may have been dropped as dominated, every group takes the cheapest of
    those that lose no more: by the sum of its costs, each over its limit, and by each cost alone."""
    tables, starts = problem.tables, problem.offsets[:-1]
    counts = np.diff(problem.offsets)
    members = np.concatenate([np.array(layers) for layers in problem.members])
    widths = np.array([len(layers) for layers in problem.members])
    firsts = np.cumsum(widths) - widths
    share = problem.costs / np.maximum(np.abs(problem.limits), 1)[:, None]
    criteria = [share.sum(axis=0), *(share if len(share) > 1 else ())]
    best = None
    for scope in uniform_scopes(problem.scope):
        loss = tables.loss[members, scope.allowed[members].argmax(axis=1)]
        ceiling = np.add.reduceat(loss, firsts)
        if float(ceiling.sum()) >= objective:
            continue
        allowed = problem.loss <= (ceiling * (1 + 1e-12)).repeat(counts)
        if not np.logical_or.reduceat(allowed, starts).all():
            continue
        for cost in criteria:
            held = np.where(allowed, cost, np.inf)
            least = held == np.minimum.reduceat(held, starts).repeat(counts)
            plan = np.maximum.reduceat(np.where(least, np.arange(len(cost)), -1), starts)
            total = float(problem.loss[plan].sum())
            if total < objective and (problem.total(plan) <= problem.limits).all():
                best, objective = plan, total
    return best
