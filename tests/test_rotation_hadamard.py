"""Hadamard matrices against their definition: entries +-1 and H H' = n I."""

from __future__ import annotations

import numpy as np
import pytest

from quantizers.rotation.hadamard import (
    atom,
    hadamard_factors,
    hadamard_matrix,
    jacobsthal,
    prime_power,
)

# hidden, intermediate and heads x head_dim widths of Llama, TinyLlama, SmolLM2, Mistral, Mixtral, Qwen2, Qwen3, Gemma
REAL_WIDTHS = [
    *(384, 576, 640, 768, 896, 960, 1024, 1152, 1536, 2048, 2304, 2560, 2880, 3072, 3584, 3840, 4096, 4864, 5120, 5376),
    *(5632, 6144, 6912, 7168, 8192, 8960, 9216, 9728, 10240, 11008, 12288, 13824, 14336, 15360, 16384, 17408, 18944),
    *(21504, 22016, 24576, 25600, 27648, 28672, 29568, 32768, 36864, 53248),
]
UNREACHED = {156, 172, 188}


@pytest.mark.parametrize("order", [1, 2, *range(4, 201, 4), 288, 344, 368, 576, 640, 2880 // 4])
def test_rows_are_orthogonal(order: int) -> None:
    if order in UNREACHED:
        with pytest.raises(ValueError, match=str(order)):
            hadamard_matrix(order)
        return
    H = hadamard_matrix(order)
    assert H.dtype == np.int8
    assert H.shape == (order, order)
    assert set(np.unique(H)) <= {-1, 1}
    product = H.astype(np.int64) @ H.T.astype(np.int64)
    assert np.array_equal(product, order * np.eye(order, dtype=np.int64))


@pytest.mark.parametrize("order", [3, 5, 6, 10, 45, 98])
def test_orders_that_do_not_exist(order: int) -> None:
    with pytest.raises(ValueError, match=f"order {order}"):
        hadamard_matrix(order)


@pytest.mark.parametrize("width", REAL_WIDTHS)
def test_every_real_width_is_one_block_of_small_factors(width: int) -> None:
    factors = hadamard_factors(width)
    assert factors is not None
    assert int(np.prod(factors)) == width
    power, *dense = factors
    assert power & (power - 1) == 0
    assert sum(dense) <= 400, "the dense factors are to stay far cheaper than the layer"


@pytest.mark.parametrize(("p", "k"), [(3, 1), (7, 1), (3, 2), (5, 2), (3, 3), (7, 3)])
def test_jacobsthal_over_prime_power_fields(p: int, k: int) -> None:
    q = p**k
    Q = jacobsthal(p, k).astype(np.int64)
    assert np.array_equal(Q @ Q.T, q * np.eye(q, dtype=np.int64) - 1)
    assert np.array_equal(Q.T, Q if q % 4 == 1 else -Q)


def test_prime_powers_by_definition() -> None:
    def is_prime(n: int) -> bool:
        return n > 1 and all(n % d for d in range(2, n))

    powers = {p**k: (p, k) for p in range(2, 400) if is_prime(p) for k in range(1, 9) if p**k < 400}
    for q in range(400):
        assert prime_power(q) == powers.get(q)


def test_atoms_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        atom(12)[0, 0] = 5
