r"""What the model loses when *all* layers are disturbed at once: the operating point of a plan.

At 4 bits every layer has a distortion of 0.006 at the same time, and the loss has left the quadratic regime. Gaussian
noise on all layers, a new draw for each window, gives KL and loss increase there without quantizing anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from alloc.sensitivity.perturbed import Replay, relative_noise, replaced
from alloc.sensitivity.table import Progress, Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class JointLoss:
    """Means over windows and their standard errors, nats/token."""

    kl: float
    kl_se: float
    loss: float
    loss_se: float


def joint_loss(
    model: nn.Module,
    slots: Slots,
    windows: torch.Tensor,
    distortion: Mapping[str, float],
    *,
    generator: torch.Generator,
    antithetic: bool = True,
    progress: Progress | None = None,
) -> JointLoss:
    """KL and loss increase with noise of relative variance `distortion[layer]` on every named layer.

    windows: (count, T); every window has its own draw of the noise, and if `antithetic` is measured with each sign: the
    part of the loss increase that is odd in the noise, zero in the mean and large, cancels. KL has next to none.
    ValueError on an unknown layer."""
    unknown = sorted(set(distortion) - set(slots))
    if unknown:
        raise ValueError(f"unknown layer {unknown[0]!r}")
    found: list[tuple[float, float]] = []
    for window in windows:
        replay = Replay.of(model, window, {})
        noise = {name: relative_noise(slots[name].weight, d, generator) for name, d in distortion.items()}
        both = []
        for sign in (1, -1) if antithetic else (1,):
            weights = {name: slots[name].weight.float() + sign * delta for name, delta in noise.items()}
            with replaced(slots, weights):
                both.append(replay.increase())
        found.append((sum(kl for kl, _ in both) / len(both), sum(loss for _, loss in both) / len(both)))
        if progress is not None:
            progress(len(found), len(windows), "all layers")
    values = np.array(found)  # (windows, 2)
    error = values.std(axis=0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.full(2, math.nan)
    return JointLoss(
        kl=float(values[:, 0].mean()), kl_se=float(error[0]), loss=float(values[:, 1].mean()), loss_se=float(error[1])
    )
