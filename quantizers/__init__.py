"""Weights -> codes -> weights: the palette, by name, and what every member of it promises (`quantizers.base`).

A family is a list of quantizers, each of which says its own name: `tcq-3.5`, `int-4-g128`, `mxfp4`. To add one, write
its file and a line of FAMILIES; the tests run over the list. `state_bits` (L) is a setting of the trellis families
alone: 16 as published, smaller where a CPU must finish soon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import product

from quantizers.affine_integer import AffineInteger
from quantizers.base import Encoded, Quantizer
from quantizers.fp4 import fp4, nvfp4
from quantizers.fp16 import Float16
from quantizers.grouped_integer import grouped_integer
from quantizers.integer import Integer
from quantizers.lattice import Lattice
from quantizers.microscaling import mxfp4, mxint8
from quantizers.normal_float import normal_float
from quantizers.scalar import NonUniform
from quantizers.scales import Float16Scale, TwoLevel
from quantizers.trellis import ComputedPair, ComputedTrellis, HalfTrellis, Trellis
from quantizers.vector import Vector

__all__ = ["FAMILIES", "Encoded", "Family", "Quantizer", "make_quantizer", "names", "palette"]

PUBLISHED_STATE_BITS = 16
GROUPS = (32, 64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`members`: the name of a quantizer -> that quantizer at a given `state_bits`, in the order of their rates."""

    name: str
    members: Mapping[str, Callable[[int], Quantizer]]


def _fixed(name: str, members: Iterable[Quantizer]) -> Family:
    """A family that has no states."""

    def same(quantizer: Quantizer, state_bits: int) -> Quantizer:
        return quantizer

    return Family(name=name, members={quantizer.name: partial(same, quantizer) for quantizer in members})


def _trellis(name: str, make: Callable[[int, int], Quantizer], steps: Iterable[int]) -> Family:
    """A family whose members `make(step, state_bits)` gives; their names leave `state_bits` out."""
    return Family(name=name, members={make(k, PUBLISHED_STATE_BITS).name: partial(make, k) for k in steps})


def _computed(quarters: int, state_bits: int) -> Quantizer:
    """At the published 16 state bits the flagship takes its own number, 16 or 17."""
    return ComputedTrellis(quarters=quarters, state_bits=None if state_bits == PUBLISHED_STATE_BITS else state_bits)


FAMILIES: tuple[Family, ...] = (
    _fixed("fp16", [Float16()]),
    _fixed("int", [Integer(bits=bits) for bits in range(2, 9)]),
    _fixed("int-group", [grouped_integer(bits, group) for bits, group in product((2, 3, 4, 8), GROUPS)]),
    _fixed("int-asym", [AffineInteger(bits=bits, group=group) for bits, group in product((2, 3, 4, 8), GROUPS)]),
    _fixed("nf", [normal_float(bits, group, Float16Scale()) for bits, group in product((3, 4), GROUPS)]),
    _fixed("nf-e4m3", [normal_float(bits, group, TwoLevel()) for bits, group in product((3, 4), GROUPS)]),
    _fixed("fp4", [*(fp4(group) for group in GROUPS), nvfp4()]),
    _fixed("mx", [mxfp4(), mxint8()]),
    _fixed("nuq", [NonUniform(bits=bits) for bits in range(2, 9)]),
    _fixed("vq", [Vector(index_bits=bits) for bits in range(3, 13)]),
    _fixed("e8", [Lattice()]),
    _trellis("tcq", lambda k, L: Trellis(step_bits=k, state_bits=L), range(3, 11)),
    _trellis("half-tcq", lambda k, L: HalfTrellis(step_bits=k, state_bits=L), range(3, 10)),
    _trellis("trained-tcq", lambda k, L: Trellis(step_bits=k, state_bits=L, trained=True), range(3, 11)),
    _trellis("published-tcq", lambda k, L: Trellis(step_bits=k, state_bits=L, published=True), range(3, 11)),
    _trellis("published-half-tcq", lambda k, L: HalfTrellis(step_bits=k, state_bits=L, published=True), range(3, 10)),
    _trellis("trellis", _computed, range(5, 25)),
    _trellis("trellis2", lambda k, L: ComputedPair(step_bits=k, state_bits=L), range(2, 9)),
)


def names() -> tuple[str, ...]:
    """All quantizers, in the order of the families and their members."""
    return tuple(name for family in FAMILIES for name in family.members)


def make_quantizer(name: str, state_bits: int = PUBLISHED_STATE_BITS) -> Quantizer:
    """The quantizer of this name; ValueError, with the names that exist, where there is none."""
    for family in FAMILIES:
        if name in family.members:
            return family.members[name](state_bits)
    raise ValueError(f"no quantizer is named {name!r}; there are {', '.join(names())}")


def palette(patterns: Iterable[str], state_bits: int = PUBLISHED_STATE_BITS) -> tuple[Quantizer, ...]:
    """The quantizers whose whole name fits one of the shell patterns; ValueError where a pattern fits none."""
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names()):
            raise ValueError(f"no quantizer fits {pattern!r}; there are {', '.join(names())}")
    chosen = (name for name in names() if any(fnmatchcase(name, pattern) for pattern in patterns))
    return tuple(make_quantizer(name, state_bits) for name in chosen)
