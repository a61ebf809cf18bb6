r"""The random signs of a rotation, a function of (seed, group) alone: the same on every machine, torch and python.

Bit i of the stream sha256("bitpalette signs 1 | seed | group | block 0"), block 1, ... (most significant bit first)
says whether channel i is negated. 256 signs a digest; nothing is ever stored."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=1024)
def random_signs(seed: int, group: str, count: int) -> NDArray[np.int8]:
    """(count,) of +-1; the first signs do not depend on `count`. Read-only."""
    blocks = -(-count // 256)
    stream = b"".join(
        hashlib.sha256(f"bitpalette signs 1|{seed}|{group}|{block}".encode()).digest() for block in range(blocks)
    )
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8))[:count]
    signs = 1 - 2 * bits.astype(np.int8)
    signs.flags.writeable = False
    return signs
