"""The computed trellis code: its values and streams by definition, its search by brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from neighbour_paths import assert_no_change_is_cheaper

from quantizers import make_quantizer
from quantizers.distortion import gap_db, gaussian_distortion
from quantizers.trellis import ComputedTrellis
from quantizers.trellis.computed import CONSTANTS, DEVIATION, all_values, gain, native_state_bits, shifts
from quantizers.trellis.mixed_stream import (
    codes_to_states,
    from_steps,
    path_states,
    symbols_to_codes,
    tile_order,
    to_steps,
)
from quantizers.trellis.mixed_viterbi import closest_symbols


def test_a_value_is_the_sum_of_the_signed_bytes_of_a_product() -> None:
    multiplier = CONSTANTS[12][0]
    values = all_values(10, multiplier)
    for state in (0, 1, 77, 1023):
        product_bytes = (state * multiplier % (1 << 32)).to_bytes(4, "little")
        assert values[state] == sum(int.from_bytes([byte], "little", signed=True) for byte in product_bytes)


@pytest.mark.parametrize("quarters", sorted(CONSTANTS))
def test_a_period_of_shifts_adds_up_to_the_rate_and_larger_ones_come_late(quarters: int) -> None:
    k = shifts(quarters)
    assert sum(k) == quarters
    assert max(k) - min(k) <= 1
    assert all(sum(k[:r]) == r * quarters // 4 for r in range(5))


@pytest.mark.parametrize("quarters", [5, 8, 11, 13, 18, 24])
@pytest.mark.parametrize("state_bits", [8, 12, 16, 17, 18])
def test_states_are_cyclic_windows_of_the_stream(quarters: int, state_bits: int) -> None:
    rng = np.random.default_rng(quarters)
    k = np.tile(shifts(quarters), 64)
    symbols = rng.integers(0, 1 << k, size=(3, 256)).astype(np.uint8)
    codes = symbols_to_codes(torch.from_numpy(symbols), quarters)
    assert codes.numel() == 3 * 8 * quarters
    states = codes_to_states(codes, quarters, state_bits)
    assert torch.equal(states, path_states(torch.from_numpy(symbols), quarters, state_bits))
    ends = np.cumsum(k)
    for tile in range(3):
        stream = [int(n) >> bit & 1 for n, width in zip(symbols[tile], k, strict=True) for bit in range(width)]
        for t in range(256):
            window = [stream[(ends[t] - state_bits + i) % len(stream)] for i in range(state_bits)]
            assert states[tile, t] == sum(bit << i for i, bit in enumerate(window))


def test_a_step_of_a_tile_is_where_a_matrix_instruction_holds_it() -> None:
    order = tile_order()
    assert sorted(order.tolist()) == list(range(256))
    for g, q, j in product(range(8), range(4), range(8)):
        assert order[8 * (4 * g + q) + j] == (g + 8 * (j % 2)) * 16 + 4 * q + j // 2
    matrix = torch.randn(37, 50)
    assert torch.equal(from_steps(to_steps(matrix), 37, 50), matrix)


@pytest.mark.parametrize("quarters", [5, 8, 13, 19, 24])
def test_the_search_is_a_full_dynamic_program_over_states(quarters: int) -> None:
    """Against a plain program over states, free pass and full pass, in integers."""
    state_bits, window = 8, 16
    values = all_values(state_bits, CONSTANTS[quarters][0]).numpy()
    rng = np.random.default_rng(1)
    points = (rng.standard_normal((3, 256)) * 120).round().astype(np.int16)
    found = closest_symbols(points, values, shifts(quarters), window=window)
    for tile, x in zip(found, points, strict=True):
        assert tile.tolist() == plain_search(x.astype(np.int64), values.astype(np.int64), quarters, state_bits, window)


def plain_search(x: np.ndarray, values: np.ndarray, quarters: int, L: int, window: int) -> list[int]:
    """Every state keeps its own cost and predecessor."""
    k = np.tile(shifts(quarters), 64)
    states = np.arange(1 << L)

    def run(start: np.ndarray, first: int, steps: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """start: cost of each overlap before step `first`; costs of states, and the state before each state."""
        cost, before = None, []
        for i in range(steps):
            t = (first + i) % 256
            overlap = states & ((1 << (L - k[t])) - 1)
            if cost is None:
                entry = start[overlap]
            else:
                options = cost.reshape(-1, 1 << k[t])  # the states that share what they hand on
                entry = options.min(1)[overlap]
                before.append((overlap << k[t]) + options.argmin(1)[overlap])
            cost = entry + (x[t] - values) ** 2
        return cost, before

    cost, before = run(np.zeros(1 << (L - k[0]), np.int64), 256 - window, 2 * window)
    ends = cost.reshape(-1, 1 << k[0])
    s = (int(ends.min(1).argmin()) << k[0]) + int(ends[ends.min(1).argmin()].argmin())
    for i in range(2 * window - 2, window - 2, -1):
        s = int(before[i][s])
    seam = s >> k[0]
    start = np.full(1 << (L - k[0]), 1 << 40)
    start[seam] = 0
    cost, before = run(start, 0, 256)
    s = (seam << k[0]) + int(cost.reshape(-1, 1 << k[0])[seam].argmin())
    path = [s]
    for pointers in reversed(before):
        path.append(int(pointers[path[-1]]))
    return [int(state >> (L - k[t])) for t, state in enumerate(reversed(path))]


def test_few_tiles_are_not_beaten_by_paths_near_them() -> None:
    state_bits = 10
    points = (torch.randn(4, 256, generator=torch.Generator().manual_seed(0)) * 135).round().to(torch.int16)
    assert_no_change_is_cheaper(points, all_values(state_bits, CONSTANTS[12][0]), 12, state_bits, range(24, 232))


def test_settings_of_a_rate() -> None:
    assert make_quantizer("trellis-3.25") == ComputedTrellis(quarters=13)
    assert make_quantizer("trellis-3.25", 12) == ComputedTrellis(quarters=13, state_bits=12)
    assert make_quantizer("trellis-2").settings()["state_bits"] == native_state_bits(8) == 16
    assert native_state_bits(12) == 17
    for arguments in ({"quarters": 4}, {"quarters": 25}, {"quarters": 12, "state_bits": 7}):
        with pytest.raises(ValueError, match="trellis"):
            ComputedTrellis(**arguments)


@pytest.mark.parametrize("name", ["trellis-2", "trellis-2.75"])
def test_more_states_come_nearer_to_the_bound(name: str) -> None:
    gaps = []
    for state_bits in (8, 11):
        quantizer = make_quantizer(name, state_bits)
        gaps.append(gap_db(gaussian_distortion(quantizer, 1 << 15)[0], quantizer.bits_per_weight))
    assert 0 < gaps[1] < gaps[0] < 2.5


def test_fewer_states_take_a_smaller_gain() -> None:
    quarters, state_bits = 20, 10
    own, fewer = gain(quarters, native_state_bits(quarters)), gain(quarters, state_bits)
    assert own == gain(quarters, 18) == CONSTANTS[quarters][1]
    values = all_values(state_bits, CONSTANTS[quarters][0]).double()
    source = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).double()
    errors = []
    for scale in (DEVIATION * own, DEVIATION * fewer):
        points = (source * scale).round().to(torch.int16).numpy()
        found = closest_symbols(points, values.short().numpy(), shifts(quarters), window=128)
        decoded = values[path_states(torch.from_numpy(found), quarters, state_bits).long()] / scale
        errors.append((source - decoded).square().mean().item())
    assert errors[1] < 0.99 * errors[0]
