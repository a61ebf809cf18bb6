r"""Independent parts of a problem: groups that no chain of budgets connects are solved apart, and their bounds add up.

A budget touches a group whose options differ in its cost; connected components of groups and budgets are the parts.
Budgets on name patterns (one for every block, say) split a problem so; one budget on everything leaves one part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alloc.problem import Problem

Ints = NDArray[np.int64]


def parts(problem: Problem) -> Iterator[tuple[Ints, Problem]]:
    """(groups, their problem) of every part; groups that no budget touches are one part, with room for all of them."""
    starts = problem.offsets[:-1]
    least = np.minimum.reduceat(problem.costs, starts, axis=1)  # (budgets, groups)
    touched = np.maximum.reduceat(problem.costs, starts, axis=1) > least
    label = _components(touched)
    for part in range(int(label.max()) + 1):
        groups = np.flatnonzero(label == part)
        budgets = np.flatnonzero(touched[:, groups].any(axis=1))
        limits = problem.limits - np.where(label == part, 0, least).sum(axis=1)
        if not len(budgets):
            budgets = np.zeros(1, np.int64)
            limits = np.maximum(limits, least[:, groups].sum(axis=1))
        yield groups, _restricted(problem, groups, budgets, limits[budgets])


def _components(touched: NDArray[np.bool_]) -> Ints:
    """(groups,) number of each group's component, from (budgets, groups) which touches which."""
    groups = touched.shape[1]
    bare = ~touched.any(axis=0)
    label = np.where(bare, 0, -1)
    found = int(bare.any())
    while (label < 0).any():
        first = int(np.argmax(label < 0))
        inside = np.zeros(groups, dtype=bool)
        inside[first] = True
        while True:
            budgets = touched[:, inside].any(axis=1)
            grown = inside | touched[budgets].any(axis=0)
            if (grown == inside).all():
                break
            inside = grown
        label[inside] = found
        found += 1
    return label


def _restricted(problem: Problem, groups: Ints, budgets: Ints, limits: Ints) -> Problem:
    """The problem of some groups under some budgets."""
    if len(groups) == problem.groups and len(budgets) == len(problem.limits):
        return problem
    ranges = [np.arange(problem.offsets[group], problem.offsets[group + 1]) for group in groups]
    options = np.concatenate(ranges)
    return replace(
        problem,
        units=tuple(problem.units[budget] for budget in budgets),
        limits=limits,
        members=tuple(problem.members[group] for group in groups),
        offsets=np.concatenate([[0], np.cumsum([len(options) for options in ranges])]).astype(np.int64),
        loss=problem.loss[options],
        costs=np.ascontiguousarray(problem.costs[np.ix_(budgets, options)]),
        blocks=problem.blocks[options],
    )
