r"""Hadamard matrices: H of order n with entries +-1 and H H' = n I, for n = 1, 2 and most multiples of 4.

Constructions, chi being the quadratic character of the field of q elements (1 on squares, -1 else, 0 at 0) and
Q[a, b] = chi(a - b) its Jacobsthal matrix, Q Q' = q I - J:
* Sylvester (1867): H of order 2n from order n, [[H, H], [H, -H]];
* Paley I (1933, doi:10.1002/sapm1933121311), q = 3 mod 4, order q + 1: I + [[0, 1], [-1, Q]];
* Paley II, q = 1 mod 4, order 2(q + 1): C x [[1, 1], [1, -1]] + I x [[1, -1], [-1, -1]], C = [[0, 1], [1, Q]];
* Williamson (1944), order 4m from four symmetric circulants with A^2 + B^2 + C^2 + D^2 = 4m I, m = 23: order 92
  (Baumert, Golomb and Hall, 1962, doi:10.1090/S0002-9904-1962-10761-7), and m = 29;
* Kronecker products of these.
q runs over prime powers. Orders 4k below 200 that stay out of reach: 156, 172, 188. Cost O(n^2)."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Signs = NDArray[np.int8]

# First rows of the symmetric circulants A, B, C, D; found by matching the power spectra of all symmetric rows.
WILLIAMSON = {
    23: ("+-++-+++--+--+--+++-++-", "++---+-+-++++++-+-+---+", "+++--+---+----+---+--++", "+++-+--++++--++++--+-++"),
    29: (
        "+-+-+--+-++-++--++-++-+--+-+-",
        "+-+----++++--+--+--++++----+-",
        "+++++--++---+-++-+---++--++++",
        "+---+++-++++++--++++++-+++---",
    ),
}


def hadamard_matrix(order: int) -> Signs:
    """(order, order) int8 of +-1 with orthogonal rows. ValueError where no construction here gives the order."""
    factors = hadamard_factors(order)
    if factors is None:
        raise ValueError(
            f"no Hadamard matrix of order {order} is constructible here (1, 2 and most multiples of 4 are)"
        )
    matrix = np.ones((1, 1), dtype=np.int8)
    for factor in factors:
        matrix = np.kron(matrix, atom(factor))
    return matrix


@lru_cache(maxsize=1024)
def hadamard_factors(order: int) -> tuple[int, ...] | None:
    """Orders of the Kronecker factors: a power of two (Sylvester), then `atom`s, in the cheapest way to apply them.

    A factor f costs f additions an element as a dense matrix, log2 f as a power of two. None: out of reach."""
    if order < 1:
        raise ValueError(f"the order of a Hadamard matrix is at least 1, got {order}")
    best: tuple[float, tuple[int, ...]] | None = None
    for dense in products_dividing(order):
        power = order // int(np.prod(dense, dtype=np.int64))
        if power & (power - 1):
            continue
        cost = sum(dense) + np.log2(power)
        if best is None or cost < best[0]:
            best = cost, (power, *dense)
    return None if best is None else best[1]


def products_dividing(order: int, least: int = 12) -> list[tuple[int, ...]]:
    """Non-decreasing tuples of atom orders whose product divides `order` and leaves no odd factor to Sylvester."""
    found: list[tuple[int, ...]] = [()]
    for factor in range(-(-least // 4) * 4, order + 1, 4):
        if order % factor == 0 and factor & (factor - 1) and is_atom(factor):
            found += [(factor, *rest) for rest in products_dividing(order // factor, factor)]
    return found


def is_atom(order: int) -> bool:
    """Whether Paley or Williamson gives the order."""
    return paley_field(order) is not None or (order % 4 == 0 and order // 4 in WILLIAMSON)


def paley_field(order: int) -> tuple[int, int, int] | None:
    """(p, k, type): the field of p^k elements whose Paley construction of type 1 or 2 has this order."""
    if order % 4 == 0:
        for q, residue, kind in ((order - 1, 3, 1), (order // 2 - 1, 1, 2)):
            power = prime_power(q)
            if power is not None and q % 4 == residue:
                return *power, kind
    return None


@lru_cache(maxsize=64)
def atom(order: int) -> Signs:
    """The matrix of one factor: Sylvester for powers of two, else Paley, else Williamson. Read-only."""
    field = paley_field(order)
    if order & (order - 1) == 0:
        matrix = np.ones((1, 1), dtype=np.int8)
        while len(matrix) < order:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    elif field is not None:
        p, k, kind = field
        matrix = paley_first(p, k) if kind == 1 else paley_second(p, k)
    else:
        matrix = williamson(*(np.array([1 if c == "+" else -1 for c in row]) for row in WILLIAMSON[order // 4]))
    matrix = np.ascontiguousarray(matrix, dtype=np.int8)
    matrix.flags.writeable = False
    return matrix


def paley_first(p: int, k: int) -> Signs:
    """I + S of order q + 1 with the skew S = [[0, 1], [-1, Q]]."""
    return np.eye(p**k + 1, dtype=np.int8) + bordered(jacobsthal(p, k), -1)


def paley_second(p: int, k: int) -> Signs:
    """Order 2(q + 1) from the symmetric conference matrix C = [[0, 1], [1, Q]]."""
    conference = bordered(jacobsthal(p, k), 1)
    a = np.array([[1, 1], [1, -1]], dtype=np.int8)
    b = np.array([[1, -1], [-1, -1]], dtype=np.int8)
    return np.kron(conference, a) + np.kron(np.eye(len(conference), dtype=np.int8), b)


def bordered(core: Signs, corner: int) -> Signs:
    """[[0, 1], [corner, core]]."""
    matrix = np.zeros((len(core) + 1, len(core) + 1), dtype=np.int8)
    matrix[0, 1:] = 1
    matrix[1:, 0] = corner
    matrix[1:, 1:] = core
    return matrix


def williamson(*rows: NDArray[np.int64]) -> Signs:
    """[[A, B, C, D], [-B, A, -D, C], [-C, D, A, -B], [-D, -C, B, A]] of the circulants with these first rows."""
    a, b, c, d = (np.stack([np.roll(row, shift) for shift in range(len(row))]).astype(np.int8) for row in rows)
    return np.block([[a, b, c, d], [-b, a, -d, c], [-c, d, a, -b], [-d, -c, b, a]])


def jacobsthal(p: int, k: int) -> Signs:
    """Q[a, b] = chi(a - b) over the field of p^k elements; element number i has the base-p digits of i, low first."""
    q = p**k
    digits = (np.arange(q)[:, None] // p ** np.arange(k)) % p  # (q, k)
    chi = np.full(q, -1, dtype=np.int8)
    chi[number(field_squares(digits, p), p)] = 1
    chi[0] = 0
    index = np.zeros((q, q), dtype=np.int64)
    for place in range(k):  # subtraction has no carries
        index += (np.subtract.outer(digits[:, place], digits[:, place]) % p) * p**place
    return chi[index]


def field_squares(digits: NDArray[np.int64], p: int) -> NDArray[np.int64]:
    """The squares of all elements, (q, k): polynomials mod p and mod an irreducible polynomial of degree k."""
    k = digits.shape[1]
    if k == 1:
        return digits * digits % p
    product = np.zeros((len(digits), 2 * k - 1), dtype=np.int64)
    for i, j in itertools.product(range(k), repeat=2):
        product[:, i + j] += digits[:, i] * digits[:, j]
    return reduce_polynomials(product, irreducible(p, k), p)


def reduce_polynomials(values: NDArray[np.int64], modulus: NDArray[np.int64], p: int) -> NDArray[np.int64]:
    """Remainders mod the monic `modulus` (low coefficient first, degree d) of polynomials mod p: (n, m) -> (n, d)."""
    values, degree = values % p, len(modulus) - 1
    for top in range(values.shape[1] - 1, degree - 1, -1):
        values[:, top - degree : top + 1] -= values[:, top : top + 1] * modulus
        values %= p
    return values[:, :degree]


def irreducible(p: int, k: int) -> NDArray[np.int64]:
    """The first monic polynomial of degree k mod p, low coefficient first, that none of degree 1..k/2 divides."""
    divisors = [
        np.array([*low, 1]) for degree in range(1, k // 2 + 1) for low in itertools.product(range(p), repeat=degree)
    ]
    for low in itertools.product(range(p), repeat=k):
        candidate = np.array([*low, 1])
        if all(reduce_polynomials(candidate[None], divisor, p).any() for divisor in divisors):
            return candidate
    raise AssertionError("every finite field has an irreducible polynomial of every degree")


def number(digits: NDArray[np.int64], p: int) -> NDArray[np.int64]:
    """Base-p digits, low first, (n, k) -> (n,)."""
    return digits @ (p ** np.arange(digits.shape[1]))


def prime_power(q: int) -> tuple[int, int] | None:
    """(p, k) with q = p^k and p an odd or even prime; None where q is no prime power."""
    if q < 2:
        return None
    p = next((d for d in range(2, int(q**0.5) + 1) if q % d == 0), q)
    k = 0
    while q % p == 0:
        q, k = q // p, k + 1
    return (p, k) if q == 1 else None
