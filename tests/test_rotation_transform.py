"""The fast rotation against the explicit matrix R = H S / sqrt(m) and the identities it promises."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.rotation import MOST_BLOCK, Rotation, hadamard_factors, hadamard_matrix, random_signs
from quantizers.rotation.transform import block_factors

WIDTHS = [1, 2, 3, 4, 6, 12, 15, 16, 20, 28, 36, 48, 64, 90, 92, 96, 100, 116, 144, 156, 192, 336, 368, 576]
LIMITED = [  # (in_features, most_block, the blocks' order)
    (4096, 2048, 2048), (14336, 2048, 2048), (8192, 2048, 2048), (28672, 2048, 2048), (12288, 2048, 2048),
    (3584, 2048, 512), (4864, 2048, 256), (576, 2048, 576), (1536, 2048, 1536), (2048, 2048, 2048),
    (1536, 512, 512), (1536, 256, 256), (1536, 1000, 512), (576, 512, 288), (1152, 300, 288), (768, 600, 256),
    (514, 256, 2), (515, 256, 1), (257, 256, 1), (256, 256, 256),
]  # fmt: skip


def explicit(rotation: Rotation) -> torch.Tensor:
    """H S / sqrt(m) with H block diagonal, written out in float64."""
    m = rotation.block
    H = torch.from_numpy(hadamard_matrix(m).astype(np.float64))
    H = torch.block_diag(*[H] * (rotation.in_features // m))
    signs = random_signs(rotation.seed, rotation.group, rotation.in_features).astype(np.float64)
    return H @ torch.diag(torch.from_numpy(signs)) / m**0.5


@pytest.mark.parametrize(
    ("width", "most_block"),
    [*((width, 0) for width in WIDTHS), (576, 256), (768, 256), (1024, 300), (1152, 512), (514, 256)],
)
def test_definition_and_inverse(width: int, most_block: int) -> None:
    rotation = Rotation(in_features=width, seed=3, group="model.layers.0.mlp", most_block=most_block)
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


@pytest.mark.parametrize(("width", "most_block", "order"), LIMITED)
def test_blocks_within_a_limit(width: int, most_block: int, order: int) -> None:
    limited = Rotation(in_features=width, seed=0, group="g", most_block=most_block)
    assert limited.block == order
    if width <= most_block:
        whole = Rotation(in_features=width, seed=0, group="g")
        assert block_factors(width, most_block) == block_factors(width)
        x = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
        assert torch.equal(limited.rotate_input(x), whole.rotate_input(x))


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 40_000), most_block=st.integers(256, 5000))
def test_the_rule_of_limited_blocks(width: int, most_block: int) -> None:
    order, factors = block_factors(width, most_block)
    assert order == np.prod(factors)
    if width <= most_block:
        assert (order, factors) == block_factors(width)
        return
    within = [m for m in range(1, most_block + 1) if width % m == 0]
    powers = [m for m in within if m & (m - 1) == 0 and m >= 256]
    assert order == max(powers or [m for m in within if hadamard_factors(m) is not None])


def test_blocks_do_not_mix_and_each_has_signs_of_its_own() -> None:
    rotation = Rotation(in_features=1024, seed=0, group="g", most_block=256)
    R = rotation.matrix()
    blocks = [R[at : at + 256, at : at + 256] for at in range(0, 1024, 256)]
    assert torch.equal(R, torch.block_diag(*blocks))
    signs = torch.stack([block[0].sign() for block in blocks])  # the first row of a Sylvester matrix is all ones
    assert torch.equal(signs.flatten(), torch.from_numpy(random_signs(0, "g", 1024).astype(np.float64)))
    assert len(set(map(tuple, signs.tolist()))) == 4


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
    for most_block in (-1, 1, 255):
        with pytest.raises(ValueError, match=f"at least 256, got {most_block}"):
            Rotation(in_features=48, seed=0, group="g", most_block=most_block)
    assert Rotation(in_features=48, seed=0, group="g", most_block=MOST_BLOCK).block == 48
