r"""Budgets: hard limits on memory, latency and named costs, and what each means in exact units.

bits_per_weight v    ->  memory_bytes <= floor(v params / 8)           (params of the allocated layers)
uniform Q            ->  memory_bytes <= exact bytes of the plan that stores every layer with Q
within {pattern: v}  ->  memory_bytes[pattern] <= floor(v params / 8)  (layers whose names match, alone)
tokens_per_second v  ->  latency_us   <= batch 1e6 / v                 (all sequences of the batch counted)"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alloc.tables import RESERVED, Tables

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Any combination; a cost limited twice takes the smaller limit. `named` limits columns of costs.csv; `within`
    limits the bits per weight of the layers that a shell pattern matches, such as those of a block."""

    bits_per_weight: float | None = None
    memory_bytes: int | None = None
    latency_us: float | None = None
    tokens_per_second: float | None = None
    uniform: str | None = None
    named: Mapping[str, float] = field(default_factory=dict)
    within: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bits_per_weight", "memory_bytes", "latency_us", "tokens_per_second"):
            value = getattr(self, name)
            if value is not None:
                _check(name, value)
        for name, value in self.named.items():
            if name in RESERVED:
                raise ValueError(f"budget {name} is not a cost of costs.csv")
            _check(name, value)
        for pattern, value in self.within.items():
            _check(f"within[{pattern}]", value)
        for bits in (self.bits_per_weight, *self.within.values()):
            if bits is not None and bits > 64:
                raise ValueError(f"budget bits_per_weight={bits} is above 64; is it in bytes?")
        if self.memory_bytes is not None and self.memory_bytes != int(self.memory_bytes):
            raise ValueError(f"budget memory_bytes={self.memory_bytes} is not a whole number of bytes")


def _check(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"budget {name}={value!r} is not a number")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"budget {name}={value!r} is not accepted; it must be finite and above 0")


def exact(value: float) -> Fraction:
    """The decimal that a float is written as: 0.1 is 1/10."""
    return Fraction(repr(float(value))) if isinstance(value, float) else Fraction(value)


def limits(budgets: Budgets, tables: Tables, allocated: Mask, *, batch: int, whole_model: bool) -> dict[str, Fraction]:
    """The smallest limit of each cost in bytes, microseconds or the cost's own unit.

    Raises ValueError where there is no budget, or one on an unknown cost."""
    found: dict[str, list[Fraction]] = {}
    outside = fp16_bytes(tables, ~allocated) if whole_model else 0
    if budgets.bits_per_weight is not None:
        params = int(tables.params[allocated].sum())
        found.setdefault("memory_bytes", []).append(
            Fraction(math.floor(exact(budgets.bits_per_weight) * params / 8) + outside)
        )
    if budgets.uniform is not None:
        quantizer = tables.quantizer_index(budgets.uniform)
        found.setdefault("memory_bytes", []).append(
            Fraction(int(tables.storage_bytes[allocated, quantizer].sum()) + outside)
        )
    if budgets.memory_bytes is not None:
        found.setdefault("memory_bytes", []).append(Fraction(int(budgets.memory_bytes)))
    if budgets.latency_us is not None:
        found.setdefault("latency_us", []).append(exact(budgets.latency_us))
    if budgets.tokens_per_second is not None:
        found.setdefault("latency_us", []).append(batch * 1_000_000 / exact(budgets.tokens_per_second))
    for name, value in budgets.named.items():
        if name not in tables.costs:
            known = ", ".join((*RESERVED[:5], *tables.costs))
            raise ValueError(f"unknown budget {name!r}; known: {known} (costs.csv names further costs)")
        found[name] = [exact(value)]
    for pattern, value in budgets.within.items():
        params = int(tables.params[matching(tables, allocated, pattern)].sum())
        found[within_name(pattern)] = [Fraction(math.floor(exact(value) * params / 8))]
    if not found:
        raise ValueError("no budget; set one of " + ", ".join((*RESERVED[:5], *tables.costs)))
    return {name: min(values) for name, values in found.items()}


def within_name(pattern: str) -> str:
    """The cost that a budget within a pattern limits."""
    return f"memory_bytes[{pattern}]"


def within_pattern(name: str) -> str | None:
    """The pattern of such a cost; None for any other."""
    return name[len("memory_bytes[") : -1] if name.startswith("memory_bytes[") and name.endswith("]") else None


def matching(tables: Tables, allocated: Mask, pattern: str) -> Mask:
    """(layers,) the allocated layers that a pattern matches. Raises ValueError where there is none."""
    hit = allocated & np.array([fnmatchcase(name, pattern) for name in tables.layers])
    if not hit.any():
        first = tables.layers[int(np.flatnonzero(allocated)[0])]
        raise ValueError(f"budget within {pattern!r} matches no layer to allocate, such as {first!r}")
    return hit


def fp16_bytes(tables: Tables, mask: Mask) -> int:
    """Bytes of the layers in `mask` that are stored unquantized."""
    return sum(tables.fp16_bytes(int(layer)) for layer in np.flatnonzero(mask))


def uniform_bytes(tables: Tables, quantizer: str, *, exclude: Iterable[str] = (), whole_model: bool = False) -> int:
    """Exact bytes of the plan that stores every allocatable layer with `quantizer`."""
    allocated = allocated_layers(tables, exclude)
    total = int(tables.storage_bytes[allocated, tables.quantizer_index(quantizer)].sum())
    return total + (fp16_bytes(tables, ~allocated) if whole_model else 0)


def allocated_layers(tables: Tables, exclude: Iterable[str] = ()) -> Mask:
    """(layers,) those with a sensitivity that no pattern excludes. Raises ValueError on a pattern without match."""
    mask = tables.allocatable.copy()
    for pattern in exclude:
        hit = np.array([fnmatchcase(name, pattern) for name in tables.layers])
        if not hit.any():
            raise ValueError(f"exclude pattern {pattern!r} matches no layer; the first is {tables.layers[0]!r}")
        mask &= ~hit
    if not mask.any():
        raise ValueError("no layer to allocate: every layer has an empty sensitivity or is excluded")
    return mask
