"""The trellis search against all paths, the bit layout against its definition, the state maps against theirs."""

from __future__ import annotations

import itertools

import numba
import numpy as np
import pytest
import torch

from quantizers import make_quantizer
from quantizers.packing import unpack
from quantizers.trellis.hashed import entries, hashed_values
from quantizers.trellis.part import closest_states, path_codes, path_values
from quantizers.trellis.spiral import spiral
from quantizers.trellis.states import SPIRAL_GAIN
from quantizers.trellis.tiles import codes_to_states, from_tiles, states_to_codes, to_tiles
from quantizers.trellis.viterbi import closest_paths
from quantizers.weights import half, normalized, rms


def all_cyclic_paths(period: int, state_bits: int, k: int) -> np.ndarray:
    """(paths, period) states of every stream: state t is the cyclic window of L bits that ends with step t."""
    total = period * k
    stream = np.arange(1 << total)
    states = []
    for t in range(period):
        bits = [(k * (t + 1) - state_bits + i) % total for i in range(state_bits)]
        states.append(sum(((stream >> bit) & 1) << i for i, bit in enumerate(bits)))
    return np.stack(states, axis=1)


@pytest.mark.parametrize(
    ("state_bits", "k", "period"), [(4, 1, 10), (5, 2, 6), (3, 2, 6), (6, 3, 4), (3, 3, 4), (7, 4, 3)]
)
def test_search_is_exact_given_its_seam_and_among_the_best_of_all_paths(state_bits: int, k: int, period: int) -> None:
    rng = np.random.default_rng(state_bits + 10 * k)
    table = rng.standard_normal((1 << state_bits, 2)).astype(np.float32)
    points = rng.standard_normal((37, period, 2)).astype(np.float32)  # 37: two groups of lanes and a part of one
    found = closest_paths(points, table, k, window=period // 2).astype(np.int64)
    paths = all_cyclic_paths(period, state_bits, k)
    errors = ((table[paths][None] - points[:, None]) ** 2).sum((2, 3))  # (tiles, paths)
    mine = ((table[found] - points) ** 2).sum((1, 2))
    seam = found[:, -1] >> k  # the overlap that the last state hands to the first
    assert (np.roll(found, 1, 1) >> k == found & ((1 << (state_bits - k)) - 1)).all()
    for tile in range(len(points)):
        same = (paths[:, -1] >> k) == seam[tile]
        assert mine[tile] == pytest.approx(errors[tile, same].min(), rel=1e-5)
    assert mine.mean() <= np.quantile(errors, 0.01, axis=1).mean()


def test_codes_depend_on_the_tile_alone() -> None:
    rng = np.random.default_rng(0)
    table = spiral(8).float().numpy()
    points = rng.standard_normal((70, 128, 2)).astype(np.float32)
    together = closest_paths(points, table, 5, window=32)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert np.array_equal(closest_paths(points, table, 5, window=32), together)
    finally:
        numba.set_num_threads(threads)
    for tile in (0, 15, 16, 69):
        assert np.array_equal(closest_paths(points[tile : tile + 1], table, 5, window=32)[0], together[tile])


@pytest.mark.parametrize(("k", "state_bits"), [(3, 8), (7, 12), (10, 16), (8, 8)])
def test_states_are_cyclic_windows_of_the_stream(k: int, state_bits: int) -> None:
    codes = torch.randint(0, 256, (3 * 16 * k,), generator=torch.Generator().manual_seed(k)).to(torch.uint8)
    states = codes_to_states(codes, k, state_bits)
    bits = unpack(codes, 1, 8 * codes.numel()).view(3, 128 * k)
    for tile, t in itertools.product(range(3), range(0, 128, 9)):
        window = [bits[tile, (k * (t + 1) - state_bits + i) % (128 * k)].item() << i for i in range(state_bits)]
        assert states[tile, t].item() == sum(window)
    assert torch.equal(states_to_codes(states, k, state_bits), codes)


def test_encoded_paths_are_cyclic_and_decode_to_their_values() -> None:
    quantizer = make_quantizer("tcq-2.5", state_bits=9)
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(3))
    encoded = quantizer.encode(weight)
    states = codes_to_states(encoded.tensors["codes"], 5, 9)
    assert torch.equal(states.roll(1, 1) >> 5, states & 15)
    ratio = from_tiles(spiral(9).float()[states.long()], 32, 48)
    decoded = quantizer.decode(encoded)
    scale = (decoded * ratio).sum(1) / (ratio * ratio).sum(1)
    torch.testing.assert_close(decoded, ratio * scale[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (17, 33), (40, 20)])
def test_tiles_are_blocks_of_the_matrix(shape: tuple[int, int]) -> None:
    matrix = torch.arange(1, shape[0] * shape[1] + 1, dtype=torch.float32).view(shape)
    tiles = to_tiles(matrix)
    columns = -(-shape[1] // 16)
    for row, column in itertools.product(range(shape[0]), range(shape[1])):
        inside = (row % 16) * 16 + column % 16
        assert tiles[row // 16 * columns + column // 16, inside // 2, inside % 2] == matrix[row, column]
    assert tiles.sum() == matrix.sum()
    assert torch.equal(from_tiles(tiles, *shape), matrix)


def test_published_map_is_its_formula() -> None:
    table = entries(9)
    values = hashed_values(table, 16)
    for s in (0, 1, 77, 4095, 40000, 65535):
        h = s * (s + 1) % (1 << 32)
        entry = table[(h >> 6) & 511].float()
        sign = -1.0 if (h >> 15) & 1 else 1.0
        assert values[s].tolist() == [sign * entry[0].item(), entry[1].item()]
    assert table.float().square().mean().sqrt().item() == pytest.approx(0.968, abs=1e-3)


@pytest.mark.parametrize("state_bits", [8, 12, 15])
def test_spiral_has_a_point_a_state_of_gaussian_spread(state_bits: int) -> None:
    table = spiral(state_bits).double()
    assert len({tuple(point) for point in table.tolist()}) == 1 << state_bits
    assert table.square().mean().item() == pytest.approx(1, abs=0.02)
    # both sides of an overlap cover the plane: the mean of each subset is near the origin
    for subset in (table.view(-1, 16, 2), table.view(16, -1, 2).transpose(0, 1)):
        assert subset.mean(0).norm(dim=1).max() < 0.35


def test_half_tcq_is_two_trellises_side_by_side() -> None:
    weight = torch.randn(16, 80, generator=torch.Generator().manual_seed(1))
    encoded = make_quantizer("half-tcq-2.25", state_bits=10).encode(weight)
    codes = encoded.tensors["codes"]
    first = 3 * 16 * 4  # ceil(5 / 2) tiles of 4 new bits a step
    assert codes.numel() == first + 2 * 16 * 5
    source = normalized(weight, half(rms(weight)))
    values = {k: spiral(10).float() / SPIRAL_GAIN[k] for k in (4, 5)}
    low = closest_states(source[:, :48].contiguous(), values[4], 4)
    high = closest_states(source[:, 48:].contiguous(), values[5], 5)
    low_values = path_values(low, values[4], 16, 48)
    high_values = path_values(high, values[5], 16, 32)
    assert torch.equal(codes, torch.cat([path_codes(low, 4, 10), path_codes(high, 5, 10)]))
    scale = encoded.tensors["row_scale"].float()[:, None]
    decoded = make_quantizer("half-tcq-2.25", state_bits=10).decode(encoded)
    assert torch.equal(decoded, torch.cat([low_values, high_values], dim=1) * scale)
    assert high_values.sub(source[:, 48:]).square().mean() < low_values.sub(source[:, :48]).square().mean()
