"""Stacked codes are, byte for byte, the codes of the stacked matrix."""

from __future__ import annotations

import pytest
import torch
from quick_quantizers import quick

from quantizers import FAMILIES
from quantizers.base import bytes_per_layer
from quantizers.modules.stacking import stacked

ENDS = [name for family in FAMILIES for name in {next(iter(family.members)): 0, list(family.members)[-1]: 0}]
HEIGHTS = (32, 16, 48)


def weight(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))


@pytest.mark.parametrize("name", [name for name in ENDS if not bytes_per_layer(quick(name))])
@pytest.mark.parametrize("columns", [16, 72, 80])
def test_stacked_codes_are_the_codes_of_the_stacked_matrix(name: str, columns: int) -> None:
    quantizer = quick(name)
    matrices = [weight(rows, columns) for rows in HEIGHTS]
    parts = [quantizer.encode(matrix) for matrix in matrices]
    whole, expected = stacked(quantizer, parts), quantizer.encode(torch.cat(matrices))
    assert whole.out_features == sum(HEIGHTS)
    assert list(whole.tensors) == list(expected.tensors)
    for key, tensor in expected.tensors.items():
        assert torch.equal(whole.tensors[key].view(torch.uint8), tensor.view(torch.uint8)), key
    assert whole.storage_bytes == sum(part.storage_bytes for part in parts)
    assert torch.equal(quantizer.decode(whole), torch.cat([quantizer.decode(part) for part in parts]))


@pytest.mark.parametrize("name", ["nvfp4", "nf-4-g64-e4m3"])
def test_a_scale_of_the_whole_matrix_cannot_be_stacked(name: str) -> None:
    quantizer = quick(name)
    parts = [quantizer.encode(weight(16, 64)), quantizer.encode(weight(32, 64))]
    with pytest.raises(ValueError, match=f"{name} stores 4 bytes for a matrix as a whole"):
        stacked(quantizer, parts)


def test_shapes_that_cannot_be_stacked() -> None:
    quantizer = quick("nuq-3")
    with pytest.raises(ValueError, match="24 rows are no multiple of 16"):
        stacked(quantizer, [quantizer.encode(weight(16, 64)), quantizer.encode(weight(24, 64))])
    with pytest.raises(ValueError, match="matrices of 32 and 64 columns"):
        stacked(quantizer, [quantizer.encode(weight(16, 64)), quantizer.encode(weight(16, 32))])
