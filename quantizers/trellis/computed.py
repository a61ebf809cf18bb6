r"""The computed code of the `trellis` family: no table, one multiply and a sum of bytes.

    value(s) = sum of the four signed bytes of m s mod 2^32,      0 <= s < 2^L

(the sum-of-bytes idea: QTIP, Tseng et al., 2024, arXiv 2406.11235, section 3.1). A state takes in one weight a step. At
a rate of a/4 bits the steps 4i .. 4i + 3 add floor((t + 1) a / 4) - floor(t a / 4) new bits each: 3.25 = 3-3-3-4. m is
from our own search (`python -m experiments.search_trellis`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

BLOCK = 256
DEVIATION = (4 * (256**2 - 1) / 12) ** 0.5  # of the sum of four uniform bytes: 147.8
LARGEST = 700  # of a source in units of the code: values end at 508, and what is beyond 700 has the same best code


# Rate in quarters of a bit: (multiplier, gain), found by quantizers.trellis.search with 250 candidates and seed 0
CONSTANTS = {
    5: (0x32AE6589, 1.08),
    6: (0x1DB17B4D, 1.04),
    7: (0x93E6A19D, 1.01),
    8: (0x7AA43CD9, 0.99),
    9: (0xBF965DBD, 0.98),
    10: (0x79389E6B, 0.96),
    11: (0x9CB64D2B, 0.96),
    12: (0x3FB47973, 0.95),
    13: (0x2516611D, 0.93),
    14: (0x33756C17, 0.93),
    15: (0x0E23822F, 0.92),
    16: (0xF274C831, 0.91),
    17: (0x99D6AB5B, 0.90),
    18: (0x78A9430F, 0.90),
    19: (0x4C579079, 0.89),
    20: (0xCF9E0B71, 0.88),
    21: (0xF09507AD, 0.87),
    22: (0xC506634B, 0.86),
    23: (0x65296CC1, 0.84),
    24: (0x8DC2FC1B, 0.84),
}


def native_state_bits(quarters: int) -> int:
    """L in use: 17 where 16 would leave more than 0.45 dB (to 3 bits) or 0.70 dB (above) to the bound, or would not be
    decoded faster: at 3.25, 4 and 4.25 bits it is, by a tenth (cuda/trellis_decode.cuh)."""
    return 16 if quarters <= 10 or quarters in (13, 16, 17) else 17


def gain(quarters: int, state_bits: int) -> float:
    """Standard deviation, over that of the code, which the source is scaled to.

    With fewer states than its own a code has fewer large values: the best gain falls by about 1 % a missing bit at 4
    bits a weight, as rate^1.5. At L = 12 that is worth 0.02 dB at 3 bits, 0.08 at 4, 0.9 at 6, and is within 0.04 dB of
    the best gain up to 5.5 bits."""
    missing = max(0, native_state_bits(quarters) - state_bits)
    return CONSTANTS[quarters][1] - 0.01 * missing * (quarters / 16) ** 1.5


def shifts(quarters: int) -> tuple[int, ...]:
    """(4,) new bits of steps t = 0 .. 3 at `quarters` / 4 bits a weight."""
    return tuple((t + 1) * quarters // 4 - t * quarters // 4 for t in range(4))


def signed_bytes(states: torch.Tensor, multiplier: int) -> Iterator[torch.Tensor]:
    """The four bytes, -128 .. 127, of multiplier x state mod 2^32, low one first: int64, as `states`."""
    product = states * multiplier & 0xFFFFFFFF
    for byte in range(4):
        yield ((product >> (8 * byte) & 255) ^ 128) - 128


def state_value(states: torch.Tensor, multiplier: int) -> torch.Tensor:
    """The value of every state, int16 between -512 and 508, in the shape of `states` (int64) and on its device."""
    total = torch.zeros_like(states)
    for signed in signed_bytes(states, multiplier):
        total += signed
    return total.to(torch.int16)


@cache
def all_values(state_bits: int, multiplier: int) -> torch.Tensor:
    """(2^L,) int16 on the CPU."""
    return state_value(torch.arange(1 << state_bits), multiplier)
