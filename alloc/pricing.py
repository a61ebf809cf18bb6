"""What a plan costs, re-added from the tables: bytes as integers, microseconds as exact decimals, no solver's sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from fractions import Fraction

import numpy as np

from alloc.budgets import fp16_bytes, within_name
from alloc.choice import Choice
from alloc.fusion import is_embedding
from alloc.latency import block_members
from alloc.tables import Tables
from alloc.units import latency_offset, latency_table


def plan_loss(tables: Tables, layers: Mapping[str, Choice]) -> float:
    """Predicted loss of a plan, nats/token, correctly rounded."""
    return math.fsum(float(tables.loss[at, quantizer]) for at, quantizer, _ in _entries(tables, layers))


def plan_costs(
    tables: Tables,
    layers: Mapping[str, Choice],
    *,
    batch: int = 1,
    whole_model: bool = False,
    within: Iterable[str] = (),
) -> dict[str, Fraction]:
    """memory_bytes, and those of the layers within each pattern; latency_us where the plan names kernels; every named
    cost with a row for each choice.

    Layers that the plan leaves out are fp16. Raises ValueError on an unknown layer, quantizer or latency row."""
    entries = list(_entries(tables, layers))
    outside = np.ones(len(tables.layers), dtype=bool)
    outside[[at for at, _, _ in entries]] = False
    memory = sum(int(tables.storage_bytes[at, quantizer]) for at, quantizer, _ in entries)
    costs = {"memory_bytes": Fraction(memory + (fp16_bytes(tables, outside) if whole_model else 0))}
    for pattern in within:
        inside = (entry for entry in entries if fnmatchcase(tables.layers[entry[0]], pattern))
        costs[within_name(pattern)] = Fraction(sum(int(tables.storage_bytes[at, q]) for at, q, _ in inside))
    if any(choice.kernel is not None for _, _, choice in entries):
        blocks = {frozenset((tables.layers[at], *choice.fused_with)): choice for at, _, choice in entries}
        times = (_block_latency(tables, sorted(block), choice, batch) for block, choice in blocks.items())
        costs["latency_us"] = sum(times, latency_offset(tables, ~outside, batch))
    for name, values in tables.costs.items():
        chosen = [float(values[at, quantizer]) for at, quantizer, _ in entries]
        if not any(map(math.isnan, chosen)):
            costs[name] = sum((Fraction(repr(value)) for value in chosen), Fraction(0))
    return costs


def _entries(tables: Tables, layers: Mapping[str, Choice]) -> Iterator[tuple[int, int, Choice]]:
    """(layer, quantizer, choice) of every layer that the plan allocates; fp16 outside the tables is left out."""
    position = {name: at for at, name in enumerate(tables.layers)}
    quantizers = {choice.quantizer for choice in layers.values()}
    index = {name: tables.quantizer_index(name) for name in quantizers if name in tables.quantizers or name != "fp16"}
    allocatable = tables.allocatable
    for name, choice in layers.items():
        if name not in position:
            raise ValueError(f"the plan has the layer {name!r}, which layers.csv has not")
        at = position[name]
        if not allocatable[at]:
            if choice.quantizer != "fp16":
                raise ValueError(f"the plan gives {name} {choice.quantizer}, but layers.csv has no sensitivity for it")
            continue
        if choice.quantizer not in index:
            raise ValueError(f"the plan gives {name} fp16, which quantizers.csv has not")
        yield at, index[choice.quantizer], choice


def _block_latency(tables: Tables, block: list[str], choice: Choice, batch: int) -> Fraction:
    """Microseconds of one fused block."""
    table = latency_table(tables)
    if choice.kernel is None and len(block) == 1 and is_embedding(block[0]):
        return Fraction(0)
    at = [tables.layers.index(name) for name in block]
    shape = (int(tables.out_features[at].sum()), int(tables.in_features[at[0]]))
    members = block_members(block)
    for row in table.matching(members, shape, batch):
        if row.quantizer == choice.quantizer and row.kernel == choice.kernel:
            return Fraction(row.latency_us)
    raise ValueError(
        f"{table.path}: no row {'+'.join(members)},{choice.quantizer},{choice.kernel},{batch} "
        f"for the layers {', '.join(block)}"
    )
