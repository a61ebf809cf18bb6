r"""Four-bit floating point, E2M1: a sign, two exponent bits, one of mantissa (OCP Microscaling Formats v1.0, table 5).

    code = sign 8 + exponent 2 + mantissa:  0, 1/2, 1, 3/2, 2, 3, 4, 6 and their negatives

`fp4-gG` scales groups of G by a float16, `nvfp4` groups of 16 by an E4M3 over one float32 a matrix (NVIDIA, 2025,
"Introducing NVFP4"): 4.5 bits a weight and 4 bytes a matrix. Zero is always code 0."""

from __future__ import annotations

from quantizers.block import Block
from quantizers.scales import Float16Scale, TwoLevel

POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = (*POSITIVE, *(-value for value in POSITIVE))


def fp4(group: int) -> Block:
    """`fp4-gG`."""
    return Block(label=f"fp4-g{group}", bits=4, values=E2M1, group=group, scale=Float16Scale())


def nvfp4() -> Block:
    """`nvfp4`."""
    return Block(label="nvfp4", bits=4, values=E2M1, group=16, scale=TwoLevel())
