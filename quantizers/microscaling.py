r"""The OCP Microscaling formats: 32 weights share a power of two (Open Compute Project, 2023, MX specification v1.0).

    mxfp4    E2M1, 4.25 bits a weight;     s = 2^(floor(log2 max |w|) - 2)
    mxint8   two's complement over 64, -2 .. 127/64, 8.25 bits;     s = 2^floor(log2 max |w|)

Conversion as in section 6.3: values beyond the largest saturate (mxfp4: over 6 s, up to 8 s); ties go to even."""

from __future__ import annotations

from quantizers.block import Block
from quantizers.fp4 import E2M1
from quantizers.scales import PowerOfTwo

SIZE = 32


def mxfp4() -> Block:
    """`mxfp4`."""
    return Block(label="mxfp4", bits=4, values=E2M1, group=SIZE, scale=PowerOfTwo())


def mxint8() -> Block:
    """`mxint8`."""
    values = tuple((code if code < 128 else code - 256) / 64 for code in range(256))
    return Block(label="mxint8", bits=8, values=values, group=SIZE, scale=PowerOfTwo())
