r"""The computed code of the `trellis` family: no table, one multiply and a sum of bytes.

    value(s) = sum of the four signed bytes of m s mod 2^32,      0 <= s < 2^L

(the sum-of-bytes idea: QTIP, Tseng et al., 2024, arXiv 2406.11235, section 3.1). A state takes in one weight a step. At
a rate of a/4 bits the steps 4i .. 4i + 3 add floor((t + 1) a / 4) - floor(t a / 4) new bits each: 3.25 = 3-3-3-4. m is
from our own search (`python -m experiments.search_trellis`)."""

from __future__ import annotations

from functools import cache

import torch

BLOCK = 256
DEVIATION = (4 * (256**2 - 1) / 12) ** 0.5  # of the sum of four uniform bytes: 147.8
LARGEST = 700  # of a source in units of the code: values end at 508, and what is beyond 700 has the same best code


def state_bits(quarters: int) -> int:
    """L in use: 17 where 16 would leave more than 0.45 dB (to 3 bits) or 0.70 dB (above) to the bound."""
    return 16 if quarters <= 10 else 17


def shifts(quarters: int) -> tuple[int, ...]:
    """(4,) new bits of steps t = 0 .. 3 at `quarters` / 4 bits a weight."""
    return tuple((t + 1) * quarters // 4 - t * quarters // 4 for t in range(4))


def state_value(states: torch.Tensor, multiplier: int) -> torch.Tensor:
    """The value of every state, int16 between -512 and 508, in the shape of `states` (int64) and on its device."""
    product = states * multiplier & 0xFFFFFFFF
    total = torch.zeros_like(product)
    for byte in range(4):
        total += ((product >> (8 * byte) & 255) ^ 128) - 128
    return total.to(torch.int16)


@cache
def all_values(state_bits: int, multiplier: int) -> torch.Tensor:
    """(2^L,) int16 on the CPU."""
    return state_value(torch.arange(1 << state_bits), multiplier)


def path_states(symbols: torch.Tensor, quarters: int, state_bits: int) -> torch.Tensor:
    """States (tiles, 256) int64 of cyclic paths from the new bits of every step (tiles, 256)."""
    k = torch.tensor(shifts(quarters)).repeat(BLOCK // 4)
    new = symbols.to(torch.int64)
    states = torch.zeros_like(new)
    depth = state_bits
    for back in range(state_bits):
        # the step `back` earlier put its bits so far below the top as all later steps up to this one have shifted
        later = torch.stack([torch.roll(k, i) for i in range(back + 1)]).sum(0).to(new.device)
        shift = depth - later
        earlier = torch.roll(new, back, dims=1)
        states |= torch.where(shift >= 0, earlier << shift.clamp(min=0), earlier >> (-shift).clamp(min=0, max=63))
        if bool((later >= state_bits).all()):
            break
    return states & ((1 << state_bits) - 1)
