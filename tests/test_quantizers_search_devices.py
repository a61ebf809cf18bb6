"""The search for the computed trellis code: equal codes on every device, exact where costs are largest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neighbour_paths import assert_no_change_is_cheaper

from quantizers.kernels.encode import search_paths
from quantizers.trellis.closest import gpu
from quantizers.trellis.computed import (
    CONSTANTS,
    DEVIATION,
    LARGEST,
    all_values,
    native_state_bits,
    shifts,
)
from quantizers.trellis.mixed_stream import to_steps
from quantizers.trellis.mixed_viterbi import closest_symbols


def awkward_points() -> torch.Tensor:
    """(36, 256) int16: partial tiles, a row of zeros, one of the largest size, signs that alternate, heavy tails."""
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(83, 90, generator=generator) * DEVIATION
    matrix[3] = 0
    matrix[20] = LARGEST
    matrix[21] = -LARGEST
    matrix[22, ::2], matrix[22, 1::2] = LARGEST, -LARGEST
    matrix[40:60] *= torch.randn(20, 90, generator=generator).abs() * 3
    return to_steps(matrix.round().clamp(-LARGEST, LARGEST)).to(torch.int16)


@pytest.mark.gpu
@pytest.mark.skipif(gpu() is None, reason="needs a CUDA device and nvcc")
@pytest.mark.parametrize("quarters", [5, 8, 11, 12, 13, 18, 24])
def test_codes_of_cpu_and_gpu_are_equal(quarters: int) -> None:
    points, multiplier = awkward_points(), CONSTANTS[quarters][0]
    values = all_values(native_state_bits(quarters), multiplier).numpy()
    expected = closest_symbols(points.numpy(), values, shifts(quarters), window=128)
    found = search_paths(points.cuda(), quarters, multiplier=multiplier, window=128)
    assert np.array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("quarters", [5, 11, 18, 24])
def test_the_largest_costs_are_exact(quarters: int) -> None:
    """A path with one symbol changed never costs less, in int64, at the largest points and the state bits in use: costs
    of a whole tile would run over in int32."""
    state_bits = native_state_bits(quarters)
    sign = torch.randint(0, 2, (4, 256), generator=torch.Generator().manual_seed(1)) * 2 - 1
    values = all_values(state_bits, CONSTANTS[quarters][0])
    assert_no_change_is_cheaper((LARGEST * sign).to(torch.int16), values, quarters, state_bits, range(24, 232, 32))
