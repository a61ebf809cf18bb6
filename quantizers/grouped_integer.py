r"""Round to nearest on a symmetric uniform grid per group of G neighbours (`int-4-g128`).

    w ~ s q,   q in -m .. m,   m = 2^(B-1) - 1,   s = max |w| / m over the group (float16)

Codes are q + m as in `int-B`; the top code is unused. B + 16 / G bits a weight."""

from __future__ import annotations

from quantizers.block import Block
from quantizers.scales import Float16Scale


def grouped_integer(bits: int, group: int) -> Block:
    """`int-B-gG`, 2 to 8 bits. ValueError else."""
    if not 2 <= bits <= 8:
        raise ValueError(f"an integer quantizer has 2 to 8 bits, not {bits}")
    m = (1 << (bits - 1)) - 1
    values = (*(float(q) for q in range(-m, m + 1)), float(m))
    return Block(label=f"int-{bits}-g{group}", bits=bits, values=values, group=group, scale=Float16Scale())
