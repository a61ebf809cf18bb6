"""What a layer's name says: `model.layers.11.mlp.down_proj` is block 11, type `down_proj`.

The block is the first number among the dotted parts, the type the last part that is no number; a layer outside the
blocks (`lm_head`) has block -1."""

from __future__ import annotations

import pandas as pd

# Order of a block's data flow; other types follow in the order of the model.
FLOW = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def block(layer: str) -> int:
    """Index of the block, -1 outside the blocks."""
    return next((int(part) for part in layer.split(".") if part.isdigit()), -1)


def layer_type(layer: str) -> str:
    """Last part of the name that is no number."""
    return next((part for part in reversed(layer.split(".")) if not part.isdigit()), layer)


def short(layer: str) -> str:
    """`11 down_proj`, for annotations; the whole name outside the blocks."""
    return f"{block(layer)} {layer_type(layer)}" if block(layer) >= 0 else layer


def with_place(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the columns `block` and `type`, read from its column `layer`; rows and order unchanged."""
    return frame.assign(block=frame["layer"].map(block), type=frame["layer"].map(layer_type))


def ordered_types(types: pd.Series) -> list[str]:
    """The distinct types, in the order of data flow and then of appearance."""
    seen = list(dict.fromkeys(types))
    return [name for name in FLOW if name in seen] + [name for name in seen if name not in FLOW]
