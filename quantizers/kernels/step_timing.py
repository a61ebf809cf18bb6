"""The time of a decoding step: replays of several steps, each over their number; on a GPU a CUDA graph of one step by
device events, on a CPU plain calls by the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from quantizers.kernels.chain import graphed, microseconds

WARM = 8  # calls that `graphed` makes at most


class Step(Protocol):
    """A decoding step with a static cache."""

    @property
    def cache_bytes(self) -> int: ...

    def rewind(self, calls: int) -> None:
        """The next so many calls end at the last place."""

    def __call__(self) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """us of a step: over the replays."""

    median_us: float
    least_us: float
    most_us: float


def replayed(step: Step, device: torch.device) -> Callable[[], object]:
    """The step, warm: a graph where the device is a GPU."""
    step.rewind(WARM)
    if device.type == "cuda":
        return graphed(step)
    step()
    return step


def times(step: Step, replay: Callable[[], object], device: torch.device, *, replays: int, steps: int) -> Times:
    """Of a step that is warm."""
    each = each_us(step, replay, device, replays=replays, steps=steps)
    return Times(median_us=statistics.median(each), least_us=min(each), most_us=max(each))


def each_us(step: Step, replay: Callable[[], object], device: torch.device, *, replays: int, steps: int) -> list[float]:
    """us of a step that is warm, in each of several replays of several steps: where one follows another its start is
    hidden, and a single one is 3 % longer."""

    def work() -> None:
        for _ in range(steps):
            replay()

    found = []
    for _ in range(replays):
        step.rewind(steps)
        if device.type == "cuda":
            found += microseconds(work, 1)
        else:
            start = time.perf_counter()
            work()
            found.append((time.perf_counter() - start) * 1e6)
    return [us / steps for us in found]
