"""The computed code of two weights a step: its values by definition, its search among all paths."""

from __future__ import annotations

import pytest
import torch

from quantizers import make_quantizer
from quantizers.distortion import gap_db, gaussian_distortion
from quantizers.trellis import ComputedPair
from quantizers.trellis.computed_pair import CONSTANTS, DEVIATION, state_values
from quantizers.trellis.tiles import codes_to_states, to_tiles


@pytest.mark.parametrize("step_bits", sorted(CONSTANTS))
def test_values_are_sums_of_the_signed_bytes_of_a_product(step_bits: int) -> None:
    multiplier = CONSTANTS[step_bits][0]
    values = state_values(16, multiplier)
    for state in (0, 1, 77, 40000, 65535):
        product = (state * multiplier % (1 << 32)).to_bytes(4, "little")
        b = [int.from_bytes([byte], "little", signed=True) for byte in product]
        assert values[state].tolist() == [7 * b[0] + 5 * b[1] - 5 * b[3], 5 * b[1] + 7 * b[2] + 5 * b[3]]
    # four independent uniform bytes would give this spread and no correlation
    assert (values.square().mean(0).sqrt() / DEVIATION - 1).abs().max() < 0.02
    assert abs((values[:, 0] * values[:, 1]).mean().item()) < 0.02 * DEVIATION**2


def test_a_code_is_its_states_times_the_scale_of_the_row() -> None:
    quantizer = make_quantizer("trellis2-1.5", 10)
    weight = torch.randn(20, 40, generator=torch.Generator().manual_seed(0))
    encoded = quantizer.encode(weight)
    states = codes_to_states(encoded.tensors["codes"], 3, 10)
    multiplier, gain = CONSTANTS[3]
    padded = torch.zeros(32, 48)
    padded[:20, :40] = quantizer.decode(encoded) / encoded.tensors["row_scale"].float()[:, None]
    expected = state_values(10, multiplier)[states.long()] / (DEVIATION * gain)
    inside = to_tiles(torch.ones(20, 40)).bool()
    torch.testing.assert_close(to_tiles(padded)[inside], expected[inside])


@pytest.mark.parametrize("step_bits", sorted(CONSTANTS))
def test_more_states_come_nearer_to_the_bound(step_bits: int) -> None:
    gaps = []
    for state_bits in (max(8, step_bits + 2), 12):
        quantizer = ComputedPair(step_bits=step_bits, state_bits=state_bits)
        gaps.append(gap_db(gaussian_distortion(quantizer, 1 << 15)[0], quantizer.bits_per_weight))
    assert 0 < gaps[1] < gaps[0]
    assert gaps[1] < 3.0


def test_settings_of_a_rate() -> None:
    assert make_quantizer("trellis2-2.5", 12) == ComputedPair(step_bits=5, state_bits=12)
    for arguments in ({"step_bits": 1}, {"step_bits": 9}, {"step_bits": 4, "state_bits": 17}):
        with pytest.raises(ValueError, match=r"trellis2|state_bits"):
            ComputedPair(**arguments)
