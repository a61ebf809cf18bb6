"""Choice: what a plan gives one layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`kernel` is None and `fused_with` (names of the other layers) empty where no latency table was used."""

    quantizer: str
    kernel: str | None = None
    fused_with: tuple[str, ...] = ()
