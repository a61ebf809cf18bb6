r"""The second moment of every fusion group's inputs over text, rotated: H = R (sum_t w_t x_t x_t' / sum_t w_t) R'.

Windows stream through the model; each adds X' diag(w) X, a float32 product, to a float64 accumulator. What the
accumulators take is bounded: groups that do not fit into `memory_bytes` at once wait for another pass over the text.
Cost a pass: the forwards, and in^2 multiply-adds a token and group."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from quantizers.feedback.inputs import group_inputs, group_sizes
from quantizers.feedback.moments import MomentWriter
from quantizers.feedback.token_weights import TokenWeights
from quantizers.models import LinearSlot
from quantizers.rotation import Rotation

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


@torch.no_grad()
def calibrate(
    folder: Path,
    model: nn.Module,
    slots: Mapping[str, LinearSlot],
    windows: torch.Tensor,
    *,
    token_weights: TokenWeights,
    rotation_seed: int,
    most_block: int = 0,
    memory_bytes: int = 4 << 30,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write `folder`/hessians.safetensors; returns the tokens that each fusion group has seen.

    windows: (count, T) token ids; most_block: of `Rotation`. A group without any token (an expert that none chose) gets
    H = I, with a warning. Fewer tokens than inputs make H singular, which damping mends. ValueError where a group alone
    exceeds the memory."""
    sizes = group_sizes(slots)
    batches = list(passes(sizes, memory_bytes))
    device = next(model.parameters()).device
    tokens: dict[str, int] = dict.fromkeys(sizes, 0)
    done = 0
    with MomentWriter(folder, sizes) as writer:
        for batch in batches:
            sums = {
                group: torch.zeros(sizes[group], sizes[group], dtype=torch.float64, device=device) for group in batch
            }
            mass = dict.fromkeys(batch, 0.0)
            weights: Mapping[str, torch.Tensor] = {}

            def take(group: str, x: torch.Tensor, positions: torch.Tensor) -> None:
                w = weights[group].to(x.device)[positions]  # noqa: B023 (called within the pass)
                scaled = x.float() * w.sqrt()[:, None]
                sums[group] += scaled.T @ scaled  # noqa: B023
                mass[group] += float(w.sum())  # noqa: B023
                tokens[group] += len(x)

            for window in windows:
                weights = token_weights.measure(model, slots, window)
                with group_inputs(model, slots, set(batch), take):
                    model(input_ids=window[None].to(device), use_cache=False)
                done += 1
                if progress is not None:
                    progress(done, len(batches) * len(windows), f"{len(batch)} fusion groups")
            for group in batch:
                rotation = Rotation(in_features=sizes[group], seed=rotation_seed, group=group, most_block=most_block)
                writer.add(group, mean_moment(group, sums.pop(group), mass[group], rotation))
    return tokens


def passes(sizes: Mapping[str, int], memory_bytes: int) -> Iterator[list[str]]:
    """Runs of groups whose accumulators fit together."""
    batch: list[str] = []
    held = 0
    for group, n in sizes.items():
        size = 8 * n * n
        if size > memory_bytes:
            raise ValueError(f"{group} has {n} inputs: its second moment takes {size} bytes, more than {memory_bytes}")
        if held + size > memory_bytes:
            yield batch
            batch, held = [], 0
        batch.append(group)
        held += size
    if batch:
        yield batch


def mean_moment(group: str, total: torch.Tensor, mass: float, rotation: Rotation) -> torch.Tensor:
    """R (total / mass) R', float64, exactly symmetric."""
    if mass == 0:
        log.warning("no token of the text reaches %s: its H is the identity, which is no feedback", group)
        return torch.eye(len(total), dtype=torch.float64)
    turned = rotation.rotate_input(rotation.rotate_input(total / mass).T)
    if not bool(torch.isfinite(turned).all()):
        raise ValueError(f"the inputs of {group} are not finite on this text")
    return (turned + turned.T) / 2
