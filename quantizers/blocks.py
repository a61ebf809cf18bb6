r"""A matrix as blocks of neighbours in a row, and the nearest value of a small table.

A row of C weights has ceil(C / G) blocks. The last may be shorter: it has a scale of its own, which is charged in full,
and its codes take no fill, so that the codes of a matrix are one row-major stream of R C values."""

from __future__ import annotations

import numpy as np
import torch

PIECE = 1 << 16  # weights at a time: intermediate results stay in the cache


def block_count(in_features: int, group: int) -> int:
    """Blocks of a row."""
    return -(-in_features // group)


def to_blocks(matrix: torch.Tensor, group: int) -> torch.Tensor:
    """(out, in) -> (out, blocks, group), the last block of a row filled with zeros."""
    rows, columns = matrix.shape
    blocks = block_count(columns, group)
    return torch.nn.functional.pad(matrix, (0, blocks * group - columns)).view(rows, blocks, group)


def from_blocks(blocks: torch.Tensor, in_features: int) -> torch.Tensor:
    """(out, blocks, group) -> (out, in), the fill cut off."""
    return blocks.reshape(blocks.shape[0], -1)[:, :in_features]


def spread(per_block: torch.Tensor, group: int, in_features: int) -> torch.Tensor:
    """A number a block, (out, blocks), as a number a weight, (out, in)."""
    return per_block.repeat_interleave(group, dim=1)[:, :in_features]


def spread_from(per_block: torch.Tensor, group: int, first: int, width: int) -> torch.Tensor:
    """The columns first .. first + width - 1 of `spread`, (out, width)."""
    begin = first // group
    return spread(per_block[:, begin : -(-(first + width) // group)], group, first + width - begin * group)[
        :, first - begin * group :
    ]


def checked_blocks(stored: torch.Tensor, rows: int, in_features: int, group: int, what: str) -> torch.Tensor:
    """`stored`; ValueError unless it is (rows, blocks)."""
    shape = (rows, block_count(in_features, group))
    if tuple(stored.shape) != shape:
        raise ValueError(
            f"{what} of a {rows} x {in_features} matrix in groups of {group} are {shape}, not {tuple(stored.shape)}"
        )
    return stored


def nearest_codes(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """For every x the code (int32) of the nearest of `values`, (codes,) float32, values[code]; beyond the ends it
    saturates, between two it takes the even code, of equal values the lowest code."""
    ascending, first = np.unique(values.numpy(), return_index=True)
    levels, codes = torch.from_numpy(ascending), torch.from_numpy(first).to(torch.int32)
    between = torch.cat([(levels[1:] + levels[:-1]) / 2, torch.tensor([torch.inf])])
    even = codes & 1 == 0
    flat = x.reshape(-1)
    found = torch.empty(flat.shape, dtype=torch.int32)
    for i in range(0, flat.numel(), PIECE):
        source = flat[i : i + PIECE]
        lower = torch.bucketize(source, between[:-1], out_int32=True)  # source <= between[lower]: a tie goes down
        tie = (source == between[lower]) & ~even[lower]
        found[i : i + PIECE] = codes[lower + tie.to(torch.int32)]
    return found.view(x.shape)
