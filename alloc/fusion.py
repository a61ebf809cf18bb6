r"""Options of a fusion group under a latency table: all partitions into fused blocks that the table has rows for.

    front(S) = undominated of  union over blocks B of S that hold its first member:  options(B) (+) front(S - B)

where options(B) are the (quantizer, kernel) rows of B and (+) adds losses and costs of every pair. Pruning every
front loses no optimum, since loss and costs only add. O(sum over S, B of |options(B)| |front(S - B)|)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from alloc.latency import LatencyTable, Members, block_members
from alloc.pareto import fronts
from alloc.scope import Scope

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# An embedding is a look-up: it needs no row and costs 0 us
EMBEDDING_WORDS = ("embed", "wte", "wpe")


class NoOptionError(ValueError):
    """The latency table, kernels and palette leave a layer without any option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Undominated options: `loss` (n,), `costs` (budgets, n), `blocks` (n, members) the code of each member's block."""

    loss: Floats
    costs: Ints
    blocks: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCode:
    """One integer for (members of the block as a bit mask, quantizer, kernel or none)."""

    quantizers: int
    kernels: int

    def encode(self, mask: int, quantizer: Ints, kernel: Ints | int) -> Ints:
        """`kernel` is -1 for none."""
        return (mask * self.quantizers + quantizer) * (self.kernels + 1) + kernel + 1

    def quantizer(self, codes: Ints) -> Ints:
        """The quantizer of each code."""
        return codes // (self.kernels + 1) % self.quantizers

    def decode(self, code: int) -> tuple[int, int, int]:
        """(mask, quantizer, kernel)."""
        rest, kernel = divmod(int(code), self.kernels + 1)
        mask, quantizer = divmod(rest, self.quantizers)
        return mask, quantizer, kernel - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionOptions:
    """Builds the front of a group; `layer_costs` (budgets, layers, quantizers) is 0 at `latency_at`."""

    scope: Scope
    table: LatencyTable
    latency_at: int
    latency_units: Callable[[Decimal], int]
    layer_costs: Ints
    code: BlockCode

    def group_front(self, layers: list[int]) -> Front:
        """`layers`: positions in the tables. Raises NoOptionError where the table leaves a layer without any option."""
        names = [self.scope.tables.layers[layer] for layer in layers]
        blocks = {mask: self._block(mask, layers) for mask in self._masks(names)}
        blocks = {mask: front for mask, front in blocks.items() if len(front.loss)}
        full = (1 << len(layers)) - 1

        @cache
        def front(rest: int) -> Front | None:
            if rest == 0:
                return self._empty(len(layers))
            first = rest & -rest
            parts = []
            for mask, block in blocks.items():
                if mask & first and mask & rest == mask and (tail := front(rest & ~mask)) is not None:
                    parts.append(_sum(block, tail))
            return _prune(_join(parts)) if parts else None

        result = front(full)
        if result is None:
            covered = 0
            for mask in blocks:
                covered |= mask
            bare = [name for at, name in enumerate(names) if not covered >> at & 1] or names
            raise NoOptionError(
                f"{self.table.path}: no row for {', '.join(bare)} at batch {self.scope.batch}, kernels "
                f"{', '.join(self.scope.kernels)} and the palette; a layer needs at least one"
            )
        return result

    def _masks(self, names: list[str]) -> list[int]:
        """Subsets of the group that have rows, and single embeddings."""
        at: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            at.setdefault(name.rsplit(".", 1)[-1], []).append(position)
        masks = []
        for members in group_members(self.table, self.scope.batch, tuple(sorted(at))):
            if len(members) > 1 and not self.scope.fusion:
                continue
            counts = {part: members.count(part) for part in members}
            if any(count > len(at[part]) for part, count in counts.items()):
                continue
            choices = [combinations(at[part], count) for part, count in counts.items()]
            masks += [sum(1 << i for part in pick for i in part) for pick in product(*choices)]
        singles = {1 << i for i, name in enumerate(names) if is_embedding(name)}
        return sorted({*masks, *singles})

    def _block(self, mask: int, layers: list[int]) -> Front:
        inside = [layer for at, layer in enumerate(layers) if mask >> at & 1]
        names = [self.scope.tables.layers[layer] for layer in inside]
        usable = np.asarray(self.scope.allowed[inside].all(axis=0))
        shape = (int(self.scope.tables.out_features[inside].sum()), int(self.scope.tables.in_features[inside[0]]))
        rows = []
        for row in self.table.matching(block_members(names), shape, self.scope.batch):
            if row.kernel in self.scope.kernels and row.quantizer in self.scope.tables.quantizers:
                at = self.scope.tables.quantizers.index(row.quantizer)
                if usable[at]:
                    rows.append((at, self.table.kernels.index(row.kernel), self.latency_units(row.latency_us)))
        if not rows and len(names) == 1 and is_embedding(names[0]):
            rows = [(int(at), -1, 0) for at in np.flatnonzero(usable)]
        quantizer, kernel, latency = np.array(rows, np.int64).reshape(-1, 3).T
        costs = self.layer_costs[:, inside][:, :, quantizer].sum(axis=1)
        costs[self.latency_at] = latency
        blocks = np.zeros((len(rows), len(layers)), np.int64)
        for at in range(len(layers)):
            if mask >> at & 1:
                blocks[:, at] = self.code.encode(mask, quantizer, kernel)
        return _prune(Front(loss=self.scope.tables.loss[inside][:, quantizer].sum(axis=0), costs=costs, blocks=blocks))

    def _empty(self, width: int) -> Front:
        return Front(
            loss=np.zeros(1),
            costs=np.zeros((len(self.layer_costs), 1), np.int64),
            blocks=np.zeros((1, width), np.int64),
        )


def group_members(table: LatencyTable, batch: int, parts: tuple[str, ...]) -> list[Members]:
    """The member sets of the table that consist of `parts` alone."""
    inside = set(parts)
    return [members for members, size in table.rows if size == batch and inside.issuperset(members)]


def is_embedding(layer: str) -> bool:
    """Whether a layer's name says that it is an embedding."""
    last = layer.rsplit(".", 1)[-1]
    return any(word in last for word in EMBEDDING_WORDS)


def _sum(a: Front, b: Front) -> Front:
    """Every pair of options; the blocks of `a` and `b` are of different members, 0 elsewhere."""
    return Front(
        loss=(a.loss[:, None] + b.loss[None, :]).ravel(),
        costs=(a.costs[:, :, None] + b.costs[:, None, :]).reshape(len(a.costs), -1),
        blocks=(a.blocks[:, None, :] + b.blocks[None, :, :]).reshape(-1, a.blocks.shape[1]),
    )


def _join(parts: list[Front]) -> Front:
    return Front(
        loss=np.concatenate([part.loss for part in parts]),
        costs=np.concatenate([part.costs for part in parts], axis=1),
        blocks=np.concatenate([part.blocks for part in parts]),
    )


def _prune(front: Front) -> Front:
    kept, _ = fronts(np.array([0, len(front.loss)]), front.loss, front.costs)
    return Front(loss=front.loss[kept], costs=front.costs[:, kept], blocks=front.blocks[kept])
