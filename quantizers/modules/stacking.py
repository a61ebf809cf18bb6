r"""The codes of [W_1; W_2; ..], from the codes of matrices with the same columns, byte for byte as if encoded together.

Formats are rows of tiles, 16 rows each, or rows packed without gaps, of which 16 fill whole bytes (docs/format.md). So
the tensors of the members follow each other; of half-tcq, whose codes are two column sections, each section's do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quantizers.base import Encoded, Quantizer, bytes_per_layer
from quantizers.trellis import HalfTrellis
from quantizers.trellis.half import first_columns
from quantizers.trellis.part import part_bytes
from quantizers.trellis.tiles import SIDE

CODES = "codes"


def stacked(quantizer: Quantizer, parts: Sequence[Encoded]) -> Encoded:
    """All rows of `parts`, in order, on their device. ValueError where columns differ, or from `check_stackable`."""
    columns = {part.in_features for part in parts}
    if len(columns) != 1:
        raise ValueError(f"matrices of {' and '.join(map(str, sorted(columns)))} columns cannot be stacked")
    for part in parts:
        check_stackable(quantizer, part.out_features)
    rows = sum(part.out_features for part in parts)
    tensors = {key: torch.cat([part.tensors[key] for part in parts]) for key in parts[0].tensors if key != CODES}
    if CODES in parts[0].tensors:
        sections = zip(*(code_sections(quantizer, part) for part in parts), strict=True)
        tensors[CODES] = torch.cat([piece for section in sections for piece in section])
    in_order = {key: tensors[key] for key in parts[0].tensors}
    whole = Encoded(out_features=rows, in_features=columns.pop(), tensors=in_order)
    assert whole.storage_bytes == sum(part.storage_bytes for part in parts)
    return whole


def check_stackable(quantizer: Quantizer, rows: int) -> None:
    """ValueError where rows are no multiple of 16, or the quantizer stores something for a whole matrix."""
    if rows % SIDE:
        raise ValueError(f"{rows} rows are no multiple of {SIDE}, the rows of a strip of codes")
    if bytes_per_layer(quantizer):
        raise ValueError(f"{quantizer.name} stores {bytes_per_layer(quantizer)} bytes for a matrix as a whole")


def code_sections(quantizer: Quantizer, part: Encoded) -> Sequence[torch.Tensor]:
    """The codes of a matrix cut where its columns change their format."""
    codes = part.tensors[CODES]
    if not isinstance(quantizer, HalfTrellis):
        return (codes,)
    first = part_bytes(part.out_features, first_columns(part.in_features), quantizer.step_bits)
    return torch.split(codes, [first, len(codes) - first])
