"""Published beside ours: the rows of reproduction.csv, and what an experiment is given and gives back.

A published number is known to half a unit of its last printed digit; ours `agrees` where it lies within that, or within
the relative tolerance that the experiment states (a fitted law, or a number published as "about"). A loss or a time
below the published one is `better`: the published plan was not the optimum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Protocol

import pandas as pd

from alloc.tables import Tables
from experiments.paper.perplexity_law import PerplexityLaw

UNITS = {
    "objective": "nats/token",
    "bits_per_weight": "bits",
    "latency_us": "us",
    "tokens_per_second": "tokens/s",
    "speed_up": "times",
    "perplexity": "",
    "accuracy": "",
    "distortion": "",
    "perplexity_slope": "1",
}
LOWER_IS_BETTER = ("objective", "latency_us", "perplexity", "distortion")
# A law fitted to five perplexities is held to 1 % (the paper prints them to 0.1 %)
RELATIVE = {"perplexity": 0.01}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One number. `published` as printed, None where there is none; `ours` None where `note` says why; `within`: the
    difference that counts as agreement."""

    case: str
    quantity: str
    ours: float | None
    published: str | float | None = None
    relative: float = 0.0
    note: str = ""

    @property
    def published_value(self) -> float:
        """NaN where nothing is published."""
        return math.nan if self.published is None else float(self.published)

    @property
    def difference(self) -> float:
        """ours - published, NaN where either is absent."""
        return (math.nan if self.ours is None else self.ours) - self.published_value

    @property
    def within(self) -> float:
        """The difference that counts as agreement."""
        if self.published is None:
            return math.nan
        relative = max(self.relative, RELATIVE.get(self.quantity, 0.0))
        return max(half_unit(self.published), relative * abs(self.published_value))

    @property
    def verdict(self) -> str:
        """agrees, better, differs; ours alone; or skipped."""
        if self.ours is None:
            return "skipped"
        if self.published is None:
            return "ours alone"
        # the sum of two roundings of a decimal, far below any printed digit
        if abs(self.difference) <= self.within * (1 + 1e-9):
            return "agrees"
        return "better" if self.quantity in LOWER_IS_BETTER and self.difference < 0 else "differs"


def half_unit(published: str | float) -> float:
    """Half a unit of the last digit as written: 6.10 (a string) -> 0.005, 0.119166 -> 5e-7."""
    exponent = Decimal(str(published)).as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"published={published!r} is not a finite number")
    return 0.5 * 10.0**exponent


def compared(
    case: str, ours: Mapping[str, float | None], published: Mapping[str, str | float], *, note: str = ""
) -> list[Comparison]:
    """One row a quantity, in the order of `ours`. ValueError where something published has no counterpart."""
    if unknown := sorted(set(published) - set(ours)):
        raise ValueError(f"{case}: published {unknown[0]!r} is not among {', '.join(ours)}")
    return [
        Comparison(case=case, quantity=name, ours=value, published=published.get(name), note=note)
        for name, value in ours.items()
        if value is not None or name in published
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an experiment found; `table`: its own rows (NAME.csv), `skipped`: why it did not run."""

    comparisons: Sequence[Comparison] = ()
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """`tables` of `folder`, None where no folder was given; `out`: plans and models go below; `law`: loss to
    perplexity, None where the tables lack every plan that it is fitted to."""

    tables: Tables | None
    folder: Path | None
    out: Path
    law: PerplexityLaw | None = None

    def perplexity(self, objective: float) -> float | None:
        """By the law; None without one."""
        return None if self.law is None else self.law.perplexity(objective)


class Experiment(Protocol):
    """What experiments.reproduce calls. `needs_tables`: whether it works on a tables folder."""

    needs_tables: ClassVar[bool]

    def run(self, name: str, material: Material) -> Outcome:
        """The experiment; `name` is that of its YAML. ValueError or FileNotFoundError where the tables lack a part."""


def require(material: Material) -> Tables:
    """The tables. ValueError where there are none."""
    if material.tables is None:
        raise ValueError("this experiment needs tables=FOLDER")
    return material.tables
