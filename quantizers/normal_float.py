r"""NormalFloat: levels at quantiles of a Gaussian, over the largest weight (`nf-4-g64`; QLoRA, Dettmers et al., 2023,
arXiv 2305.14314, section 3 and appendix E).

    positive levels   Q(linspace(1 - d, 1/2, 2^(k-1) + 1)) without its last, Q the Gaussian quantile function
    negative levels  -Q(linspace(1 - d, 1/2, 2^(k-1))) without its last
    and zero; all over the largest.   d = (1 / (2 2^k) + 1 / (2 (2^k - 1))) / 2

d is the mean of the outer tails that 2^k and 2^k - 1 equally likely cells have on each side (0.0323 for k = 4). Levels
ascend and are rounded to float16, which changes a value by at most 2^-11 of itself. The block's scale is float16, or
E4M3 over one float32 a matrix (`-e4m3`), this project's form of QLoRA's double quantization."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from quantizers.block import Block
from quantizers.scales import ScaleFormat


def normal_levels(bits: int) -> tuple[float, ...]:
    """The 2^bits levels in [-1, 1], ascending, float16 numbers."""
    count = 1 << bits
    d = (1 / (2 * count) + 1 / (2 * (count - 1))) / 2
    positive = ndtri(np.linspace(1 - d, 0.5, count // 2 + 1)[:-1])
    negative = -ndtri(np.linspace(1 - d, 0.5, count // 2)[:-1])
    levels = np.concatenate([negative, [0.0], positive[::-1]]) / positive[0]
    return tuple(float(level) for level in levels.astype(np.float16))


def normal_float(bits: int, group: int, scale: ScaleFormat) -> Block:
    """`nf-B-gG`, 2 to 8 bits. ValueError else."""
    if not 2 <= bits <= 8:
        raise ValueError(f"a NormalFloat has 2 to 8 bits, not {bits}")
    name = f"nf-{bits}-g{group}{scale.suffix}"
    return Block(label=name, bits=bits, values=normal_levels(bits), group=group, scale=scale)
