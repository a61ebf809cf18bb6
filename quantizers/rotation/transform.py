r"""One-sided randomized Hadamard rotation of the inputs of a layer (QuIP#, Tseng et al., 2024, arXiv 2402.04396).

    x -> R x,  W -> W R',  R = H S / sqrt(m),  S = diag(random signs),  R R' = I,  so that  W x = (W R')(R x).

H is block diagonal with in_features / m Hadamard blocks of order m: one block (m = in_features) wherever an order is
constructible (2 and most multiples of 4), else the largest constructible m that divides in_features. m = 1 (an odd
in_features) leaves only the signs: such a layer is quantized as it is. Where m is limited and in_features is beyond,
m is the largest power of two within the limit, if that is at least LEAST_BLOCK: butterflies alone, and blocks that a
GPU rotates side by side.

H = H_p x F_1 x ... (Kronecker): the power of two p by fast Walsh-Hadamard butterflies, log2(p) additions an element,
the rest as small dense matrices of order f, f multiply-adds an element.
The 106 M weights of SmolLM2 (widths 576 and 1536) take 3 s on 2 cores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from quantizers.rotation.hadamard import atom, hadamard_factors
from quantizers.rotation.signs import random_signs

LEAST_BLOCK = 256  # of a power of two that is preferred, and of a limit
MOST_BLOCK = 2048  # the usual limit: what a GPU rotates fast (quantizers/kernels/block_rotation.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The rotation of every layer of a fusion group: layers that read one input share `seed` and `group`.

    most_block: the limit of the order of Hadamard blocks, 0 for none.

    Works in float64 where the argument is float64, else in float32, on the argument's device."""

    in_features: int
    seed: int
    group: str
    most_block: int = 0

    def __post_init__(self) -> None:
        if self.in_features < 1:
            raise ValueError(f"in_features must be at least 1, got {self.in_features}")
        if self.most_block and self.most_block < LEAST_BLOCK:
            raise ValueError(f"most_block is 0 (no limit) or at least {LEAST_BLOCK}, got {self.most_block}")

    @property
    def block(self) -> int:
        """Order m of the Hadamard blocks; in_features where the whole input is mixed."""
        return block_factors(self.in_features, self.most_block)[0]

    @property
    def symmetric(self) -> bool:
        """Whether H = H', so that R' = S R S: what rotates also rotates back, between two flips of signs."""
        _, (_, *dense) = block_factors(self.in_features, self.most_block)
        return all(np.array_equal(atom(order), atom(order).T) for order in dense)

    def rotate_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """W (out, in) -> W R' (out, in)."""
        return self.rotate_input(weight)

    def rotate_input(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> R x (..., in)."""
        x = self._checked(x)
        return self._blocks(x * self._scaled_signs(x), transpose=False)

    def unrotate_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """W R' (out, in) -> W (out, in)."""
        weight = self._checked(weight)
        return self._blocks(weight.clone(), transpose=True) * self._scaled_signs(weight)

    def matrix(self) -> torch.Tensor:
        """R itself, (in, in) float64: the definition that the fast paths are tested against."""
        return self.rotate_input(torch.eye(self.in_features, dtype=torch.float64)).T.contiguous()

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"a rotation of {self.in_features} inputs got a tensor of shape {tuple(x.shape)}")
        return x if x.dtype == torch.float64 else x.to(torch.float32)

    def _scaled_signs(self, like: torch.Tensor) -> torch.Tensor:
        return scaled_signs(self.in_features, self.block, self.seed, self.group, like.dtype, like.device)

    def _blocks(self, x: torch.Tensor, *, transpose: bool) -> torch.Tensor:
        m, factors = block_factors(self.in_features, self.most_block)
        return hadamard_transform(x.reshape(-1, m), factors, transpose=transpose).reshape(x.shape)


def hadamard_transform(x: torch.Tensor, factors: tuple[int, ...], *, transpose: bool) -> torch.Tensor:
    """x (rows, m) -> x H' (rows, m), or x H with `transpose`: H = H_p x F_1 x ... of these orders, unnormalized.

    Overwrites x. The butterflies touch contiguous runs of m / p elements, which is why the dense factors come last."""
    rows, m = x.shape
    power, *dense = factors
    run, half = m // power, 1
    while half < power:
        pairs = x.view(rows, power // (2 * half), 2, half * run)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        difference = first - second
        first += second
        second.copy_(difference)
        half *= 2
    for order in dense:
        run //= order
        H = dense_factor(order, x.dtype, x.device)
        H = H.T if transpose else H
        x = x.reshape(-1, order) @ H.T if run == 1 else torch.matmul(H, x.reshape(-1, order, run))
        x = x.view(rows, m)
    return x


@lru_cache(maxsize=1024)
def block_factors(in_features: int, most_block: int = 0) -> tuple[int, tuple[int, ...]]:
    """(m, factors): the order of the Hadamard blocks and its Kronecker factors, power of two first. most_block: as of
    `Rotation`. The last 16 of a pure power of two counts as dense, so that butterflies never run on single elements."""
    limit = most_block or in_features
    power = min(in_features & -in_features, 1 << limit.bit_length() - 1)
    if in_features > limit and power >= LEAST_BLOCK:
        factors: tuple[int, ...] = (power,)
    else:
        divisors = (in_features // count for count in range(1, in_features + 1) if in_features % count == 0)
        found = (hadamard_factors(order) for order in divisors if order <= limit)
        factors = next(each for each in found if each is not None)  # order 1 at the latest
    if len(factors) == 1:
        last = min(16, factors[0])
        factors = (factors[0] // last, last)
    return math.prod(factors), factors


@lru_cache(maxsize=64)
def dense_factor(order: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The +-1 matrix of one factor, (order, order)."""
    return torch.from_numpy(np.array(atom(order))).to(device=device, dtype=dtype)


@lru_cache(maxsize=4096)
def scaled_signs(
    in_features: int, block: int, seed: int, group: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Diagonal of S / sqrt(m), (in,); block: m."""
    signs = torch.from_numpy(random_signs(seed, group, in_features).astype(np.float64))
    return (signs / math.sqrt(block)).to(dtype).to(device)
