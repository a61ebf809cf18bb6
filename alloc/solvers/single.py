r"""Single-quantizer plans: what every mixed answer is held against, and never worse than.

For each quantizer the problem that leaves every layer that quantizer, or its pin; what is left to choose is the fastest
partition and kernel of a group. Without latency nothing is left, and a plan's costs are sums over the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alloc.fusion import NoOptionError
from alloc.problem import Problem, lay_out, layer_costs
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


def better_uniform(problem: Problem, objective: float) -> tuple[Problem, Ints] | None:
    """The best uniform plan within the budgets, as (its problem, options), where its loss is below `objective`."""
    if "latency_us" in problem.scope.limits:
        candidates = uniform_problems(problem)
    else:
        candidates = [lay_out(scope) for scope in _within(problem)]
    best: tuple[Problem, Ints] | None = None
    for candidate in candidates:
        plan = fastest(candidate)
        loss = float(candidate.loss[plan].sum())
        if loss < objective and (candidate.total(plan) <= candidate.limits).all():
            best, objective = (candidate, plan), loss
    return best


def _within(problem: Problem) -> list[Scope]:
    """Scopes of the uniform plans within every budget, the one of least loss alone, by sums over the tables."""
    tables, layers = problem.tables, np.flatnonzero(problem.scope.allocated)
    costs = layer_costs(problem.scope)[1]
    found = []
    for scope in uniform_scopes(problem.scope):
        quantizer = scope.allowed[layers].argmax(axis=1)
        if (costs[:, layers, quantizer].sum(axis=1) <= problem.limits).all():
            found.append((float(tables.loss[layers, quantizer].sum()), scope))
    return [min(found, key=lambda pair: pair[0])[1]] if found else []
