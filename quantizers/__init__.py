"""Weights -> codes -> weights: the palette, by name, and what every member of it promises (`quantizers.base`).

A family is a tuple of rates and a class; a quantizer's name is `<family>-<rate>`, or `fp16`. `state_bits` (L) is a
setting of the trellis families alone: 16 as published, smaller where a CPU must finish soon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from quantizers.base import Encoded, Quantizer
from quantizers.fp16 import Float16
from quantizers.integer import Integer
from quantizers.scalar import NonUniform
from quantizers.trellis import HalfTrellis, Trellis
from quantizers.vector import Vector

__all__ = ["FAMILIES", "Encoded", "Family", "Quantizer", "make_quantizer", "names", "palette"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Quantizers that differ in their rate alone; `make(rate, state_bits)` gives one of `rates`."""

    name: str
    rates: tuple[float, ...]
    make: Callable[[float, int], Quantizer]

    def member(self, rate: float) -> str:
        """The name of the quantizer of this rate."""
        return self.name if self.name == "fp16" else f"{self.name}-{rate:g}"


def _rates(first: float, last: float, step: float) -> tuple[float, ...]:
    return tuple(first + step * i for i in range(round((last - first) / step) + 1))


FAMILIES: tuple[Family, ...] = (
    Family(name="fp16", rates=(16,), make=lambda rate, state_bits: Float16()),
    Family(name="int", rates=_rates(2, 8, 1), make=lambda rate, state_bits: Integer(bits=int(rate))),
    Family(name="nuq", rates=_rates(2, 8, 1), make=lambda rate, state_bits: NonUniform(bits=int(rate))),
    Family(name="vq", rates=_rates(1.5, 6, 0.5), make=lambda rate, state_bits: Vector(index_bits=int(2 * rate))),
    Family(
        name="tcq",
        rates=_rates(1.5, 5, 0.5),
        make=lambda rate, state_bits: Trellis(step_bits=int(2 * rate), state_bits=state_bits),
    ),
    Family(
        name="half-tcq",
        rates=_rates(1.75, 4.75, 0.5),
        make=lambda rate, state_bits: HalfTrellis(step_bits=int(2 * rate - 0.5), state_bits=state_bits),
    ),
)


def names() -> tuple[str, ...]:
    """All quantizers, in the order of the families and their rates."""
    return tuple(family.member(rate) for family in FAMILIES for rate in family.rates)


def make_quantizer(name: str, state_bits: int = 16) -> Quantizer:
    """The quantizer of this name; ValueError, with the names that exist, where there is none."""
    for family in FAMILIES:
        for rate in family.rates:
            if family.member(rate) == name:
                return family.make(rate, state_bits)
    raise ValueError(f"no quantizer is named {name!r}; there are {', '.join(names())}")


def palette(patterns: Iterable[str], state_bits: int = 16) -> tuple[Quantizer, ...]:
    """The quantizers whose whole name fits one of the shell patterns; ValueError where a pattern fits none."""
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names()):
            raise ValueError(f"no quantizer fits {pattern!r}; there are {', '.join(names())}")
    chosen = (name for name in names() if any(fnmatchcase(name, pattern) for pattern in patterns))
    return tuple(make_quantizer(name, state_bits) for name in chosen)
