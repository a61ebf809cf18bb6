"""Where the search for the computed trellis code runs: on a GPU that can, else on all cores. Codes are the same."""

from __future__ import annotations

import logging
from functools import cache

import torch

from quantizers.kernels.build import KernelUnavailableError, here
from quantizers.kernels.encode import fits, search_paths
from quantizers.trellis.computed import all_values, native_state_bits, shifts
from quantizers.trellis.mixed_viterbi import closest_symbols

log = logging.getLogger(__name__)


@cache
def gpu() -> torch.device | None:
    """The device that encodes, None where there is no GPU that kernels can be built for."""
    if not torch.cuda.is_available():
        return None
    try:
        return here()
    except KernelUnavailableError as error:
        log.warning("encoding on the CPU: %s", error)
        return None


def closest_steps(
    points: torch.Tensor, quarters: int, state_bits: int, multiplier: int, *, window: int
) -> torch.Tensor:
    """The new bits of every step, (tiles, 256) uint8 on the CPU, of near-closest tail-biting paths.

    points: (tiles, 256) int16 on the CPU, in units of the code, of size at most 700."""
    device = gpu()
    if device is not None and state_bits == native_state_bits(quarters) and fits(quarters, state_bits, device):
        points = points.to(device).contiguous()
        return search_paths(points, quarters, multiplier=multiplier, window=window).cpu()
    values = all_values(state_bits, multiplier).numpy()
    return torch.from_numpy(closest_symbols(points.numpy(), values, shifts(quarters), window=window))
