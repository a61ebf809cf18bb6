r"""The core of a multiple-choice knapsack: every plan within eps of the Lagrangian bound, by dynamic programming.

At the best prices p let x be a plan near the limits, D the dual bound and r[o] = loss[o] + p . cost[o] - min over its
group, at least 0. Any plan within the limits has  loss = D + sum r + p . slack  with slack >= 0, so a plan of
loss <= D + eps uses only options with r <= eps: the core, a few groups of many (Balas and Zemel, 1980,
doi:10.1287/opre.28.5.1130; Pisinger, 1995, doi:10.1016/0377-2217(95)00015-I). Over its groups a state is (extra cost,
extra loss) against x; it is dropped if another costs and loses no more, if the rest cannot bring it within the limits,
or if

    loss so far + max_q [ sum over the rest of min_o (loss + q . cost) - q . slack left ]  >  D + eps

for prices q around p. What is left at the end holds every best plan; if nothing is left, D + eps is a proven bound."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alloc.problem import Problem
from alloc.solvers.dual import Dual
from alloc.solvers.exchange import exchanged
from alloc.solvers.states import spread, undominated

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)
# Prices q of the bound: quantiles of the core's own slopes for one budget, a grid of steps around p for more
SLOPES = 24
STEPS = (0.0, -0.3, 0.3, -1.0, 1.0, -3.0, 3.0)
# Losses are sums of doubles: states this near the target (relative) are kept
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`plan` (groups,) of the least loss within the target, None where there is none; `complete`: no state was left out
    for lack of room, so that the answer is proven; `work`: states formed."""

    plan: Ints | None
    complete: bool
    work: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """Groups with a choice, coarse ones first, so that the fine ones fill what is left; option i of stage s is
    `options[bounds[s]:bounds[s + 1]][i]`, with its extra cost and loss against `base`."""

    base: Ints  # (groups,) a plan near the limits
    base_loss: float
    slack: Ints  # (budgets,) that `base` leaves, negative where it is over
    group_of: Ints  # (stages,)
    bounds: Ints  # (stages + 1,)
    options: Ints  # (core,)
    extra_cost: Ints  # (budgets, core)
    extra_loss: Floats  # (core,)
    prices: Floats  # (prices, budgets)
    rest_value: Floats  # (prices, stages + 1) sum over later stages of min (loss + q . cost)
    rest_cost: Ints  # (budgets, stages + 1) sum over later stages of the least extra cost
    step: int  # the most common move of the first budget

    def search(self, target: float, *, most_work: int, beam: int | None = None) -> Found:
        """The best plan of loss <= `target`; with `beam`, only that many states of least bound go on at each stage."""
        room = target - self.base_loss + ROUNDING * abs(target)
        cost, loss = np.zeros((len(self.slack), 1), np.int64), np.zeros(1)
        history: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
        complete, work = True, 0
        for stage in range(len(self.group_of)):
            part = slice(self.bounds[stage], self.bounds[stage + 1])
            work += len(loss) * int(part.stop - part.start)
            if work > most_work:
                return Found(plan=None, complete=False, work=work)
            cost, loss, parent, option, bound = extend(
                cost,
                loss,
                self.extra_cost,
                self.extra_loss,
                self.slack,
                self.prices,
                self.rest_value,
                self.rest_cost,
                np.array([part.start, part.stop, stage + 1]),
                room,
            )
            kept = undominated(cost, loss)
            if beam is not None and len(kept) > beam:
                complete = False
                kept = kept[np.sort(spread(cost[:, kept], bound[kept], self.step)[:beam])]
            cost, loss = np.ascontiguousarray(cost[:, kept]), loss[kept]
            history.append((parent[kept], option[kept]))
        if not len(loss) or (not history and ((self.slack < 0).any() or room < 0)):
            return Found(plan=None, complete=complete, work=work)
        return Found(plan=self._trace(int(np.argmin(loss)), history), complete=complete, work=work)

    def _trace(self, state: int, history: list[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> Ints:
        plan = self.base.copy()
        for stage in range(len(history) - 1, -1, -1):
            parent, option = history[stage]
            plan[self.group_of[stage]] = self.options[self.bounds[stage] + option[state]]
            state = int(parent[state])
        return plan


def make_core(problem: Problem, dual: Dual, base: Ints, eps: float) -> Core:
    """The core of all options with r <= eps that an exchange does not rule out."""
    p, counts = dual.prices, np.diff(problem.offsets)
    priced = problem.loss + p @ problem.costs
    r = priced - np.minimum.reduceat(priced, problem.offsets[:-1]).repeat(counts)
    moves = r <= eps
    moves[base] = False
    options = np.flatnonzero(moves)
    group_of = np.searchsorted(problem.offsets, options, side="right") - 1
    kept = exchanged(
        problem.costs[:, options] - problem.costs[:, base[group_of]],
        problem.loss[options] - problem.loss[base[group_of]],
        r[options],
        group_of,
        eps,
    )
    groups = np.unique(group_of[kept])
    options = np.sort(np.concatenate([options[kept], base[groups]]))
    sizes = np.bincount(np.searchsorted(problem.offsets, options, side="right") - 1, minlength=problem.groups)[groups]
    against = base[groups].repeat(sizes)
    extra_cost = problem.costs[:, options] - problem.costs[:, against]
    extra_loss = problem.loss[options] - problem.loss[against]
    if len(groups):
        weight = np.abs(extra_cost) / np.maximum(np.abs(extra_cost).max(axis=1, keepdims=True), 1)
        starts = np.cumsum(sizes) - sizes
        order = np.argsort(-np.maximum.reduceat(weight.sum(axis=0), starts), kind="stable")
        moved = np.concatenate([np.arange(starts[at], starts[at] + sizes[at]) for at in order])
        groups, sizes, options = groups[order], sizes[order], options[moved]
        extra_cost, extra_loss = np.ascontiguousarray(extra_cost[:, moved]), extra_loss[moved]
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    prices = _nearby_prices(p, extra_cost, extra_loss, eps)
    return Core(
        base=base,
        base_loss=float(problem.loss[base].sum()),
        slack=problem.limits - problem.total(base),
        group_of=groups,
        bounds=bounds,
        options=options,
        extra_cost=extra_cost,
        extra_loss=extra_loss,
        prices=prices,
        rest_value=_rest(extra_loss + prices @ extra_cost, bounds),
        rest_cost=_rest(extra_cost, bounds),
        step=_common_move(extra_cost[0]),
    )


def _rest(values: NDArray[Number], bounds: Ints) -> NDArray[Number]:
    """(rows, core) -> (rows, stages + 1): sums over the later stages of each stage's smallest value."""
    if len(bounds) == 1:
        return np.zeros((len(values), 1), values.dtype)
    least = np.minimum.reduceat(values, bounds[:-1], axis=1)
    sums = np.cumsum(least[:, ::-1], axis=1)[:, ::-1]
    return np.ascontiguousarray(np.concatenate([sums, np.zeros((len(values), 1), values.dtype)], axis=1))


def _common_move(extra_cost: Ints) -> int:
    """The most frequent nonzero |extra cost|; 1 where there is none."""
    sizes, counts = np.unique(np.abs(extra_cost[extra_cost != 0]), return_counts=True)
    return int(sizes[np.argmax(counts)]) if len(sizes) else 1


def _nearby_prices(p: Floats, extra_cost: Ints, extra_loss: Floats, eps: float) -> Floats:
    """(prices, budgets) p itself, zero (the loss alone), and prices at which other core options are best."""
    count = len(p)
    grid = [p, np.zeros(count)]
    if count == 1:
        moved = extra_cost[0] != 0
        slopes = -extra_loss[moved] / extra_cost[0][moved]
        if (slopes > 0).any():
            grid += [np.array([q]) for q in np.quantile(slopes[slopes > 0], np.linspace(0.02, 0.98, SLOPES))]
        return np.array(grid)
    steps = np.zeros(count)
    for budget in range(count):
        moved = np.abs(extra_cost[budget][extra_cost[budget] != 0])
        # a step changes the value of a typical core option by eps
        steps[budget] = eps / float(np.median(moved)) if len(moved) else 0.0
    shifts = product(STEPS, repeat=count) if count == 2 else np.concatenate([s * np.eye(count) for s in STEPS[1:]])
    return np.array(grid + [np.maximum(p + steps * np.array(shift), 0.0) for shift in shifts])


@njit(cache=True)
def extend(
    cost: Ints,
    loss: Floats,
    extra_cost: Ints,
    extra_loss: Floats,
    slack: Ints,
    prices: Floats,
    rest_value: Floats,
    rest_cost: Ints,
    stage: Ints,
    room: float,
) -> tuple[Ints, Floats, NDArray[np.int32], NDArray[np.int32], Floats]:
    """Every state (cost (budgets, states), loss) with every option of a stage, as far as it can still win.

    `stage`: its options are stage[0]:stage[1], those after it are `rest...[:, stage[2]]`. Returns cost, loss, parent,
    option and the bound of the extra loss of its best completion."""
    budgets, states = len(slack), len(loss)
    first, last, after = stage[0], stage[1], stage[2]
    most = states * (last - first)
    new_cost = np.empty((budgets, most), np.int64)
    new_loss = np.empty(most)
    parent = np.empty(most, np.int32)
    chosen = np.empty(most, np.int32)
    bounds = np.empty(most)
    constant = np.empty(len(prices))
    for q in range(len(prices)):
        constant[q] = rest_value[q, after]
        for budget in range(budgets):
            constant[q] -= prices[q, budget] * slack[budget]
    total = np.empty(budgets, np.int64)
    count = 0
    for option in range(first, last):
        for state in range(states):
            alive = True
            for budget in range(budgets):
                total[budget] = cost[budget, state] + extra_cost[budget, option]
                if total[budget] + rest_cost[budget, after] > slack[budget]:
                    alive = False
            if not alive:
                continue
            value = loss[state] + extra_loss[option]
            best = -np.inf
            for q in range(len(prices)):
                bound = value + constant[q]
                for budget in range(budgets):
                    bound += prices[q, budget] * total[budget]
                best = max(best, bound)
                if best > room:
                    break
            if best <= room:
                for budget in range(budgets):
                    new_cost[budget, count] = total[budget]
                new_loss[count] = value
                parent[count], chosen[count], bounds[count] = state, option - first, best
                count += 1
    return new_cost[:, :count].copy(), new_loss[:count], parent[:count], chosen[:count], bounds[:count]
