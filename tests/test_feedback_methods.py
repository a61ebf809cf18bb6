"""Error feedback against its definitions: H = I is plain encoding, the H-weighted error falls, for every quantizer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from quantizers import FAMILIES, Quantizer, make_quantizer, names
from quantizers.columns import ColumnQuantizer
from quantizers.feedback import METHODS, Feedback, Ldlq, Plain, QuantEase, weighted_energy
from quantizers.feedback.factor import block_feedback, damped
from quantizers.feedback.ldlq import feed_back
from quantizers.feedback.quantease import sweep
from quantizers.weights import fitted_scale

CORRECTING = [method for method in METHODS if method.needs_moments]
COARSE_VECTORS = [f"vq-{bits / 2:g}" for bits in range(9, 13)]  # their codebooks take seconds to compute
CODED = [name for name in names() if name != "fp16" and name not in COARSE_VECTORS]
ONE_EACH = [next(iter(family.members)) for family in FAMILIES if family.name != "fp16"]
# the sweeps take longer: one member of each family
CASES = [(name, Ldlq) for name in CODED] + [(name, QuantEase) for name in ONE_EACH]


def quick(name: str) -> Quantizer:
    return make_quantizer(name, state_bits=10)


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def activations_moment(n: int, seed: int = 1) -> torch.Tensor:
    """X' X / T of inputs with a spectrum over three decades and a common mean, as real ones have."""
    basis, _ = torch.linalg.qr(gaussian(n, n, seed).double())
    X = gaussian(8 * n, n, seed + 1).double() * torch.logspace(0, -1.5, n, dtype=torch.float64) + 0.2
    X = X @ basis.T
    return (X.T @ X / len(X)).float()


@pytest.mark.parametrize(("name", "method"), CASES)
def test_an_identity_is_plain_encoding_bit_for_bit(name: str, method: type[Feedback]) -> None:
    quantizer, weight = quick(name), gaussian(18, 40)
    weight[7] = 0
    plain = quantizer.encode(weight)
    corrected = method().encode(quantizer, weight, torch.eye(40))
    assert plain.tensors.keys() == corrected.tensors.keys()
    for key, tensor in plain.tensors.items():
        assert torch.equal(tensor, corrected.tensors[key]), key


@pytest.mark.parametrize(("name", "method"), CASES)
def test_the_weighted_error_falls_at_the_same_bytes(name: str, method: type[Feedback]) -> None:
    quantizer, weight, H = quick(name), gaussian(48, 96), activations_moment(96)
    plain, corrected = quantizer.encode(weight), method().encode(quantizer, weight, H)
    assert corrected.storage_bytes == plain.storage_bytes == quantizer.storage_bytes(48, 96)
    before = weighted_energy(weight - quantizer.decode(plain), H)
    assert weighted_energy(weight - quantizer.decode(corrected), H) < before


@pytest.mark.parametrize("block", [1, 2, 8, 16, 64])
def test_the_factor_is_a_block_ldl(block: int) -> None:
    n = 50
    H = damped(activations_moment(n), 0.01, n)
    U = block_feedback(H, block, 0.01) + torch.eye(n, dtype=torch.float64)
    inverse = torch.linalg.inv(U)
    D = inverse @ H @ inverse.T
    blocks = torch.arange(n) // block
    same = blocks[:, None] == blocks[None, :]
    assert torch.equal(U[same], torch.eye(n, dtype=torch.float64)[same])
    assert not U[blocks[:, None] > blocks[None, :]].any()
    assert D[~same].abs().max() < 1e-9 if block < n else True
    assert torch.linalg.eigvalsh(D)[0] > 0


@pytest.mark.parametrize("name", ["nuq-3", "vq-2", "e8", "tcq-2", "half-tcq-2.25", "int-3-g32", "int-3-g32-asym"])
def test_feedback_is_its_definition_column_block_by_column_block(name: str) -> None:
    """More columns than a panel, the last block partial; T_k = W_k + sum_(j<k) (W_j - W_hat_j) A_jk in plain loops."""
    quantizer = quick(name)
    assert isinstance(quantizer, ColumnQuantizer)
    rows, n, block = 20, 149, quantizer.column_block
    weight, H = gaussian(rows, n), damped(activations_moment(n), 0.01, n)
    A = block_feedback(H, block, 0.01).float()
    scales = quantizer.scales(weight)
    symbols = feed_back(quantizer, weight, scales, A)
    decoded = quantizer.decode_columns(symbols, scales, 0, n)
    noise = (weight - decoded).double() @ (torch.eye(n, dtype=torch.float64) + A.double())
    for first in range(0, n, block):
        end = min(first + block, n)
        target = (decoded[:, first:end] + noise[:, first:end]).float()
        found = quantizer.code_columns(target.contiguous(), scales, first)
        again = quantizer.decode_columns(found, scales, first, end - first)
        # a target within rounding of a boundary may fall on its other side
        assert (again != decoded[:, first:end]).float().mean() < 0.02
    inverse = torch.linalg.inv(torch.eye(n, dtype=torch.float64) + block_feedback(H, block, 0.01))
    D = inverse @ H @ inverse.T
    assert weighted_energy(noise, D) == pytest.approx(weighted_energy(weight - decoded, H), rel=1e-4)


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_sweep_never_raises_the_error(name: str) -> None:
    quantizer, weight = quick(name), gaussian(34, 70)
    assert isinstance(quantizer, ColumnQuantizer)
    H = damped(activations_moment(70), 0.01, 70)
    scales = quantizer.scales(weight)
    symbols = quantizer.code_columns(weight, scales, 0)
    errors = []
    for _ in range(4):
        errors.append(weighted_energy(weight - quantizer.decode_columns(symbols, scales, 0, 70), H))
        symbols = sweep(quantizer, weight, scales, symbols, H)
    assert errors[1] < errors[0]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(errors))


def test_descent_ends_where_no_single_code_is_better() -> None:
    quantizer, weight, n = quick("nuq-2"), gaussian(6, 12), 12
    assert isinstance(quantizer, ColumnQuantizer)
    H = damped(activations_moment(n), 0.01, n)
    scales = quantizer.scales(weight)
    symbols = quantizer.code_columns(weight, scales, 0)
    for _ in range(30):
        symbols = sweep(quantizer, weight, scales, symbols, H)
    least = row_errors(quantizer, weight, symbols, scales, H)
    for column in range(n):
        for code in range(4):
            other = symbols.clone()
            other[:, column] = code
            assert (row_errors(quantizer, weight, other, scales, H) >= least - 1e-5).all()


def row_errors(
    quantizer: ColumnQuantizer,
    weight: torch.Tensor,
    symbols: torch.Tensor,
    scales: dict[str, torch.Tensor],
    H: torch.Tensor,
) -> torch.Tensor:
    """(out,) e H e' of every row."""
    E = (weight - quantizer.decode_columns(symbols, scales, 0, weight.shape[1])).double()
    return ((E @ H) * E).sum(dim=1)


def test_row_scales_minimize_the_weighted_error() -> None:
    weight, coded, H = gaussian(5, 30), gaussian(5, 30, seed=4) + gaussian(5, 30), activations_moment(30)
    scale = fitted_scale(weight, coded, H).double()

    def errors(s: torch.Tensor) -> torch.Tensor:
        E = weight.double() - s[:, None] * coded
        return ((E @ H.double()) * E).sum(dim=1)

    for factor in (0.99, 1.01):  # a float16 is nearer to the minimum than 1 %
        assert (errors(scale) < errors(scale * factor)).all()


@pytest.mark.parametrize("method", CORRECTING)
def test_a_bad_second_moment_is_a_clear_error(method: type[Feedback]) -> None:
    quantizer, weight, H = quick("nuq-3"), gaussian(4, 16), activations_moment(16)
    lopsided, missing, negative = H.clone(), H.clone(), H.clone()
    lopsided[0, 1] += 1
    missing[3, 3] = torch.nan
    negative[2, 2] = -1
    cases = {"symmetric": lopsided, "NaN": missing, r"\(16, 16\)": H[:8, :8], "diagonal": -H, "positive def": negative}
    for words, moment in cases.items():
        with pytest.raises(ValueError, match=words):
            method().encode(quantizer, weight, moment)
    few = gaussian(5, 16)  # fewer tokens than inputs
    with pytest.raises(ValueError, match=r"not positive definite.*damping is 0"):
        method(damping=0.0).encode(quantizer, weight, few.T @ few - 1e-3 * torch.eye(16))
    method().encode(quantizer, weight, few.T @ few)
    with pytest.raises(ValueError, match="fp16 cannot"):
        method().encode(make_quantizer("fp16"), weight, H)
    with pytest.raises(ValueError, match="damping"):
        method(damping=-1.0)


def test_the_message_names_the_damping_that_is_needed() -> None:
    weight, H = gaussian(2, 3), torch.diag(torch.tensor([2.0, 1.5, -0.5]))
    with pytest.raises(ValueError, match=r"eigenvalue is -0\.5; damping is 0\.01, more than 0\.5"):
        Ldlq().encode(quick("nuq-3"), weight, H)
    Ldlq(damping=0.51).encode(quick("nuq-3"), weight, H)


def test_plain_is_the_quantizer_itself() -> None:
    quantizer, weight = quick("tcq-2"), gaussian(16, 32)
    plain = Plain().encode(quantizer, weight, activations_moment(32))
    assert torch.equal(plain.tensors["codes"], quantizer.encode(weight).tensors["codes"])
