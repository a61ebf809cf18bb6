"""E8P against its definition: the points lie on the shifted lattice, and the search is exact."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from quantizers.distortion import matrix_distortion
from quantizers.e8p import absolute_vectors, nearest_points, points
from quantizers.lattice import Lattice
from quantizers.packing import unpack

ALL = points(torch.arange(1 << 16))


def test_the_points_are_distinct_and_on_the_shifted_lattice() -> None:
    assert len(torch.unique(ALL, dim=0)) == 1 << 16
    lattice = ALL.double() + 0.25  # E8 + 1/4 is E8 - 1/4 turned about: 2 E8 shifts by a vector of E8
    whole = (lattice == lattice.round()).all(1)
    halves = (lattice * 2 == (lattice * 2).round()).all(1) & (lattice != lattice.round()).all(1)
    assert (whole | halves).all()
    assert (lattice.sum(1) % 2 == 0).all()


def test_absolute_vectors_are_all_of_norm_ten_and_29_of_norm_twelve() -> None:
    found = {tuple((2 * a).astype(int)) for a in absolute_vectors()}
    inside = {v for v in product((1, 3, 5, 7), repeat=8) if sum(x * x for x in v) <= 40}
    assert len(found) == 256
    assert inside <= found
    assert all(sorted(v) == [1, 1, 1, 3, 3, 3, 3, 3] for v in found - inside)


def test_search_is_exact() -> None:
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 500)[:, None]
    distance = torch.cdist(x.double(), ALL.double())
    found = points(torch.from_numpy(nearest_points(x.numpy())))
    own = (x.double() - found.double()).norm(dim=1)
    torch.testing.assert_close(own, distance.amin(1), rtol=1e-5, atol=1e-5)


def test_points_find_themselves() -> None:
    codes = np.random.default_rng(0).integers(0, 1 << 16, 2000)
    assert (nearest_points(ALL[codes].numpy()) == codes).all()


def test_codes_survive_packing_and_fill_is_cut_off() -> None:
    weight = torch.randn(3, 21, generator=torch.Generator().manual_seed(1))
    quantizer = Lattice()
    encoded = quantizer.encode(weight)
    rms = weight.double().square().mean(1).sqrt().half().double()
    source = torch.zeros(3, 24, dtype=torch.float64)
    source[:, :21] = weight.double() / rms[:, None] * quantizer.gain
    codes = unpack(encoded.tensors["codes"], 16, 9)
    nearest = torch.cdist(source.view(9, 8), ALL.double()).argmin(1)
    assert torch.equal(codes.long(), nearest)
    coded = ALL[nearest].view(3, 24)[:, :21]
    expected = coded * encoded.tensors["row_scale"].float()[:, None]
    assert torch.equal(quantizer.decode(encoded), expected)


def test_the_gain_is_near_the_best() -> None:
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(2))
    own = matrix_distortion(Lattice(), weight)
    assert own < min(matrix_distortion(Lattice(gain=gain), weight) for gain in (0.93, 0.98, 1.09, 1.14))
