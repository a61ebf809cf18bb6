"""The products that a model's plan may ask for: every layer, and every set of layers of a fusion group, by shape.

Layers of one fusion group multiply the same vector, so a set of them is one product of the sum of their rows. A kind of
layer is named by the last part of its name, as in latency.csv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd

from quantizers.models.families import HEAD


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FusedShape:
    """`members`: names joined by `+`, in the order of the model."""

    members: str
    out_features: int
    in_features: int


def fused_shapes(layers: pd.DataFrame, *, fusion: bool = True) -> Iterator[FusedShape]:
    """Each once, single layers of a group first. layers: rows of layers.csv; those outside of blocks (embedding, head)
    are no products of a plan. ValueError on a group whose layers differ in in_features."""
    seen = set()
    inside = layers[layers.layer.str.contains(r"\.\d+\.")]
    for name, group in inside.groupby("fusion_group", sort=False):
        if group.in_features.nunique() != 1:
            raise ValueError(f"the layers of {name} differ in in_features")
        parts = list(zip(group.layer.str.rsplit(".", n=1).str[-1], group.out_features, strict=True))
        for size in range(1, (len(parts) if fusion else 1) + 1):
            for chosen in combinations(parts, size):
                shape = FusedShape(
                    members="+".join(part for part, _ in chosen),
                    out_features=sum(int(rows) for _, rows in chosen),
                    in_features=int(group.in_features.iloc[0]),
                )
                if shape not in seen:
                    seen.add(shape)
                    yield shape


def head_shape(layers: pd.DataFrame) -> FusedShape:
    """The product of the head. ValueError where it is no row of layers.csv: that is so of a tied one in an inventory
    whose ends are no layers."""
    rows = layers[layers.layer == HEAD]
    if rows.empty:
        raise ValueError(f"layers.csv has no row {HEAD}: experiments.inventory inventory.head=true writes one")
    row = rows.iloc[0]
    return FusedShape(members=HEAD, out_features=int(row.out_features), in_features=int(row.in_features))


def read_layers(path: Path) -> pd.DataFrame:
    """layers.csv. FileNotFoundError or ValueError where it is none."""
    layers = pd.read_csv(path)
    missing = {"layer", "out_features", "in_features", "fusion_group"} - set(layers.columns)
    if missing:
        raise ValueError(f"{path} lacks the column {min(missing)}")
    return layers
