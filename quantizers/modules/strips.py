r"""Rows of a packed matrix without decoding the rest: the strips of 16 rows that hold them, cut out of its codes.

Codes are rows of tiles, 16 rows each, or rows packed without gaps, of which 16 fill whole bytes (docs/format.md): a
strip of 16 rows is a run of bytes in each stream (of half-tcq, in each section of it), and a matrix of its own. Indices
stay on the device: nothing here waits for it."""

from __future__ import annotations

import torch
from torch.nn import functional

from quantizers.base import Encoded, Quantizer
from quantizers.columns import ColumnQuantizer
from quantizers.modules.stacking import CODES, code_sections
from quantizers.trellis.tiles import SIDE

STREAMS = (CODES, "zeros")  # bits of all rows, one behind the other
OF_THE_MATRIX = ("tensor_scale",)
LEAST_ROWS = 8  # the bytes of a stream of fewer rows do not say how many bits a row has


def row_strips(quantizer: Quantizer, encoded: Encoded, rows: torch.Tensor) -> Encoded:
    """The strips that hold `rows` (n,) int64, each for itself, below each other: codes of 16 n rows.

    Rows beyond the last of the matrix, which its last strip may have, mean nothing. ValueError where the matrix has
    less than LEAST_ROWS rows."""
    if encoded.out_features < LEAST_ROWS:
        raise ValueError(f"rows are looked up in {LEAST_ROWS} or more, not {encoded.out_features}")
    at = rows // SIDE
    members = (at[:, None] * SIDE + torch.arange(SIDE, device=at.device)).clamp(max=encoded.out_features - 1).view(-1)
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in encoded.tensors.items():
        if key in OF_THE_MATRIX:
            tensors[key] = tensor
        elif key not in STREAMS:
            tensors[key] = tensor[members]
        else:
            sections = code_sections(quantizer, encoded) if key == CODES else (tensor,)
            cut = [strips(quantizer, section, encoded.out_features)[at].view(-1) for section in sections]
            tensors[key] = torch.cat(cut)
    return Encoded(out_features=SIDE * len(rows), in_features=encoded.in_features, tensors=tensors)


def strips(quantizer: Quantizer, stream: torch.Tensor, rows: int) -> torch.Tensor:
    """(strips, bytes of one): a stream of so many rows, filled where the last strip has less than 16."""
    count = -(-rows // SIDE)
    of_tiles = isinstance(quantizer, ColumnQuantizer) and quantizer.row_block == SIDE
    size = len(stream) // count if of_tiles else len(stream) * 8 // rows * SIDE // 8
    missing = count * size - len(stream)
    return (functional.pad(stream, (0, missing)) if missing else stream).view(count, size)
