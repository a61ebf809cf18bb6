"""The fast rotation against the explicit matrix R = H S / sqrt(m) and the identities it promises."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.rotation import Rotation, hadamard_factors, hadamard_matrix, random_signs

WIDTHS = [1, 2, 3, 4, 6, 12, 15, 16, 20, 28, 36, 48, 64, 90, 92, 96, 100, 116, 144, 156, 192, 336, 368, 576]


def explicit(rotation: Rotation) -> torch.Tensor:
    """H S / sqrt(m) with H block diagonal, written out in float64."""
    m = rotation.block
    H = torch.from_numpy(hadamard_matrix(m).astype(np.float64))
    H = torch.block_diag(*[H] * (rotation.in_features // m))
    signs = random_signs(rotation.seed, rotation.group, rotation.in_features).astype(np.float64)
    return H @ torch.diag(torch.from_numpy(signs)) / m**0.5


@pytest.mark.parametrize("width", WIDTHS)
def test_definition_and_inverse(width: int) -> None:
    rotation = Rotation(in_features=width, seed=3, group="model.layers.0.mlp")
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(5, width, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 7, width, generator=generator, dtype=torch.float64)
    R = explicit(rotation)
    torch.testing.assert_close(R @ R.T, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.matrix(), R, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.rotate_weight(W), W @ R.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.rotate_input(x), x @ R.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.unrotate_weight(rotation.rotate_weight(W)), W, rtol=0, atol=1e-12)
    product = rotation.rotate_input(x) @ rotation.rotate_weight(W).T
    torch.testing.assert_close(product, x @ W.T, rtol=0, atol=1e-11)


@pytest.mark.parametrize("width", [576, 640, 896, 1536, 4096, 4864])
def test_float32_is_exact_to_rounding_on_real_widths(width: int) -> None:
    rotation = Rotation(in_features=width, seed=0, group="g")
    assert rotation.block == width
    W = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    rotated = rotation.rotate_weight(W)
    assert rotated.dtype == torch.float32
    torch.testing.assert_close(rotated.double(), rotation.rotate_weight(W.double()), rtol=0, atol=2e-5)
    torch.testing.assert_close(rotation.unrotate_weight(rotated), W, rtol=0, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(blocks=st.integers(1, 60), rows=st.integers(1, 4), seed=st.integers(0, 2**40))
def test_norms_are_kept_at_any_width(blocks: int, rows: int, seed: int) -> None:
    width = 4 * blocks
    rotation = Rotation(in_features=width, seed=seed, group="any")
    W = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed % 1000), dtype=torch.float64)
    before, after = W.norm(dim=1), rotation.rotate_weight(W).norm(dim=1)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("width", [1, 7, 45, 90, 156, 344, 4672])
def test_blocks_are_the_largest_order_that_divides(width: int) -> None:
    constructible = [m for m in range(1, width + 1) if width % m == 0 and hadamard_factors(m) is not None]
    assert Rotation(in_features=width, seed=0, group="g").block == max(constructible)


def test_signs_follow_their_definition() -> None:
    digest = hashlib.sha256(b"bitpalette signs 1|7|model.layers.3.qkv|0").digest()
    expected = [-1 if (digest[i // 8] >> (7 - i % 8)) & 1 else 1 for i in range(256)]
    assert random_signs(7, "model.layers.3.qkv", 256).tolist() == expected
    assert random_signs(7, "model.layers.3.qkv", 300)[:256].tolist() == expected


def test_a_group_shares_its_signs_and_others_do_not() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))

    def rotated(seed: int, group: str) -> torch.Tensor:
        return Rotation(in_features=64, seed=seed, group=group).rotate_input(x)

    assert torch.equal(rotated(0, "a"), rotated(0, "a"))
    assert not torch.allclose(rotated(0, "a"), rotated(0, "b"))
    assert not torch.allclose(rotated(0, "a"), rotated(1, "a"))


def test_inputs_are_left_alone_and_half_precision_is_widened() -> None:
    rotation = Rotation(in_features=48, seed=0, group="g")
    W = torch.randn(4, 48, generator=torch.Generator().manual_seed(0))
    kept = W.clone()
    rotation.rotate_weight(W)
    rotation.unrotate_weight(W)
    rotation.rotate_input(W.double())
    assert torch.equal(W, kept)
    assert torch.equal(rotation.rotate_input(W.bfloat16()), rotation.rotate_input(W.bfloat16().float()))


def test_wrong_width_is_named() -> None:
    with pytest.raises(ValueError, match=r"48 inputs.*\(4, 47\)"):
        Rotation(in_features=48, seed=0, group="g").rotate_weight(torch.zeros(4, 47))
    with pytest.raises(ValueError, match="at least 1"):
        Rotation(in_features=0, seed=0, group="g")
