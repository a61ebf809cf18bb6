r"""Where the time of a decoding step goes: kernels of torch.profiler, in groups, and the gaps between them.

Kernels of a chain overlap: one may begin before the one before it ends, and wait. A kernel is charged from the end of
all before it to its own end, so that groups and gaps add up to the whole:

    charged_i = max(0, end_i - max(start_i, latest_i)),  gap_i = max(0, start_i - latest_i),
    latest_i = max_(j < i) end_j"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

# The first pattern that is found in a kernel's name gives its group. torch.compile names kernels by what they compute:
# every norm has an rsqrt, and only masked attention has sums or a softmax without one.
GROUPS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("rotation", re.compile(r"hadamard|rotate<|activation_bytes")),
    ("sampling", re.compile(r"argmax", re.IGNORECASE)),
    ("attention", re.compile(r"flash|fmha|attention|sdpa|^_parts", re.IGNORECASE)),
    ("norm and elementwise", re.compile(r"triton.*(rsqrt|silu|sigmoid|embedding|index_put)")),
    ("attention", re.compile(r"triton.*(softmax|_sum|amax|exp)")),
    ("norm and elementwise", re.compile(r"triton|elementwise|reduce_kernel|CatArray|index|vectorized_gather")),
    ("product", re.compile(r"gemv|gemm|dequantize|nvjet|splitK|cublas|cutlass", re.IGNORECASE)),
)
OTHER, HEAD, PRODUCT, GAPS, ALL = "other", "head", "product", "gaps", "all"
ORDER = (PRODUCT, "rotation", "attention", "norm and elementwise", HEAD, "sampling", OTHER, GAPS, ALL)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Kernel:
    """One run of a kernel, in microseconds."""

    start: float
    end: float
    name: str


def group_of(name: str) -> str:
    """Of a kernel by its name alone."""
    return next((group for group, pattern in GROUPS if pattern.search(name)), OTHER)


def groups_of(names: Sequence[str]) -> list[str]:
    """Of the kernels of one step, in order. The head's product is the last work before the token is chosen: it is that
    kernel, whatever its name, and where that one only adds up parts, the one before it too."""
    groups = [group_of(name) for name in names]
    before = [i for i, group in enumerate(groups) if group not in ("sampling", OTHER)]
    for i in before[-2:] if before and "splitK" in names[before[-1]] else before[-1:]:
        groups[i] = HEAD
    return groups


def breakdown(kernels: Iterable[Kernel], steps: int) -> pd.DataFrame:
    """group, us, share, nodes: of one step, of the kernels of `steps` equal ones.

    ValueError where the kernels are not those of so many equal steps."""
    ordered = sorted(kernels)
    if not ordered or len(ordered) % steps:
        raise ValueError(f"{len(ordered)} kernels are not those of {steps} equal steps")
    each = len(ordered) // steps
    groups = groups_of([kernel.name for kernel in ordered[:each]])
    us, nodes = dict.fromkeys(ORDER, 0.0), dict.fromkeys(ORDER, 0)
    latest = ordered[0].start
    for number, kernel in enumerate(ordered):
        group = groups[number % each]
        us[GAPS] += max(0.0, kernel.start - latest)
        us[group] += max(0.0, kernel.end - max(kernel.start, latest))
        nodes[group] += 1
        latest = max(latest, kernel.end)
    us[ALL], nodes[ALL] = latest - ordered[0].start, len(ordered)
    rows = [(name, us[name] / steps, us[name] / us[ALL], nodes[name] / steps) for name in ORDER]
    return pd.DataFrame(rows, columns=pd.Index(["group", "us", "share", "nodes"]))


def recorded(replay: Callable[[], object], steps: int) -> list[Kernel]:
    """The kernels of so many replays on the GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    replay()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            replay()
        torch.cuda.synchronize()
    events: Any = profile.events()
    return [
        Kernel(start=event.time_range.start, end=event.time_range.end, name=event.name)
        for event in events
        if event.device_type.name == "CUDA"
    ]
