"""Scope: what may be chosen, read off the options of a command: palette, pins, exclusions, kernels, budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alloc.budgets import Budgets, allocated_layers, limits
from alloc.tables import Tables

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """`limits`: cost name -> limit in bytes, microseconds or the cost's own unit, memory first, then latency."""

    tables: Tables
    allocated: Mask  # (layers,)
    allowed: Mask  # (layers, quantizers)
    kernels: tuple[str, ...]
    limits: Mapping[str, Fraction]
    fusion: bool
    batch: int
    whole_model: bool

    @property
    def params(self) -> int:
        """Weights of the allocated layers."""
        return int(self.tables.params[self.allocated].sum())


def make_scope(
    tables: Tables,
    *,
    budgets: Budgets,
    members: Sequence[str] | None,
    pins: Mapping[str, str] | Sequence[str],
    exclude: Sequence[str],
    kernels: Sequence[str] | None,
    fusion: bool,
    batch: int,
    whole_model: bool,
) -> Scope:
    """Raises ValueError on an unknown name, a pattern without match, a contradiction or a missing budget."""
    if batch < 1:
        raise ValueError(f"batch={batch} is not accepted; it must be at least 1")
    allocated = allocated_layers(tables, exclude)
    wanted = limits(budgets, tables, allocated, batch=batch, whole_model=whole_model)
    order = sorted(wanted, key=lambda name: (name != "memory_bytes", name != "latency_us"))
    return Scope(
        tables=tables,
        allocated=allocated,
        allowed=_pin(tables, allocated, np.tile(_palette(tables, members), (len(tables.layers), 1)), pins),
        kernels=_kernels(tables, kernels),
        limits={name: wanted[name] for name in order},
        fusion=fusion,
        batch=batch,
        whole_model=whole_model,
    )


def _palette(tables: Tables, members: Sequence[str] | None) -> Mask:
    """(quantizers,) those that a pattern names."""
    if members is None:
        return np.ones(len(tables.quantizers), dtype=bool)
    mask = np.zeros(len(tables.quantizers), dtype=bool)
    for pattern in members:
        hit = np.array([fnmatchcase(name, pattern) for name in tables.quantizers])
        if not hit.any():
            raise ValueError(
                f"palette member {pattern!r} matches no quantizer; quantizers.csv has {', '.join(tables.quantizers)}"
            )
        mask |= hit
    if not mask.any():
        raise ValueError("the palette is empty; palette.members needs at least one pattern")
    return mask


def _pin(tables: Tables, allocated: Mask, allowed: Mask, pins: Mapping[str, str] | Sequence[str]) -> Mask:
    """`allowed` (layers, quantizers) with pinned layers left their quantizer only (of the palette or not)."""
    pairs = list(pins.items()) if isinstance(pins, Mapping) else [_split_pin(pin) for pin in pins]
    pinned: dict[int, tuple[str, str]] = {}
    for pattern, quantizer in pairs:
        if quantizer not in tables.quantizers:
            raise ValueError(f"pin {pattern}:{quantizer}: unknown quantizer; there are {', '.join(tables.quantizers)}")
        hits = [at for at in np.flatnonzero(allocated) if fnmatchcase(tables.layers[at], pattern)]
        if not hits:
            raise ValueError(
                f"pin {pattern}:{quantizer} matches no layer to allocate, such as {_first(tables, allocated)!r}"
            )
        for at in hits:
            before = pinned.setdefault(int(at), (pattern, quantizer))
            if before[1] != quantizer:
                raise ValueError(
                    f"contradictory pins for {tables.layers[at]}: {before[0]}:{before[1]} and {pattern}:{quantizer}"
                )
            allowed[at] = False
            allowed[at, tables.quantizers.index(quantizer)] = True
    return allowed


def _split_pin(pin: str) -> tuple[str, str]:
    pattern, colon, quantizer = pin.rpartition(":")
    if not colon or not pattern or not quantizer:
        raise ValueError(f"pin {pin!r} is not PATTERN:QUANTIZER")
    return pattern, quantizer


def _first(tables: Tables, allocated: Mask) -> str:
    return tables.layers[int(np.flatnonzero(allocated)[0])]


def _kernels(tables: Tables, patterns: Sequence[str] | None) -> tuple[str, ...]:
    """The kernels that a pattern names; () without a latency table."""
    known = tables.latency.kernels if tables.latency is not None else ()
    if patterns is None:
        return known
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"unknown kernel {pattern!r}; latency.csv has {', '.join(known) or 'none'}")
    if not patterns:
        raise ValueError("no kernel allowed; kernels needs at least one pattern")
    return tuple(name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns))
