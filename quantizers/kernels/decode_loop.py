"""Text by the lean step: the prompt goes through the model's own modules at once, then one graph a token.

A prompt of more than 16 tokens is a product of a dequantized weight (`operators`). Its keys and values are copied into
the static caches of the step; on a GPU a token is one replay of a CUDA graph, and the host reads nothing until it looks
for an end."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from quantizers.kernels.lean_step import USUAL_ATTENTION, LeanStep
from quantizers.kernels.step_timing import replayed

LOOKED = 16  # tokens between two looks for an end


@torch.no_grad()
def greedy_tokens(model: nn.Module, prompt: torch.Tensor, count: int, *, ends: Collection[int] = ()) -> torch.Tensor:
    """prompt (batch, n) int64 -> (batch, at most `count`): the likeliest token each time.

    Stops when every sequence has had one of `ends`; what a sequence has behind its own means nothing. ValueError for a
    family that has no lean step (`check_family`), an empty prompt, or a count below 1."""
    batch, length = prompt.shape
    if length < 1 or count < 1:
        raise ValueError(f"a prompt of {length} tokens and {count} new ones: both are at least 1")
    on_gpu = prompt.is_cuda
    attention = USUAL_ATTENTION if on_gpu else "masked"
    step = LeanStep(model, batch=batch, capacity=length + count, compiled=on_gpu, attention=attention)
    replay = replayed(step, prompt.device)  # its warm runs write the last place, which no token sees
    cache = DynamicCache()
    logits = model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    step.fill(cache)
    step.tokens.copy_(logits[:, -1].argmax(-1))
    step.place.fill_(length)
    found = [step.tokens.clone()]
    last = torch.tensor(sorted(ends), device=prompt.device)
    for number in range(1, count):
        if ends and number % LOOKED == 0 and ended(torch.stack(found, 1), last):
            break
        replay()
        step.place += 1
        found.append(step.tokens.clone())
    return torch.stack(found, 1)


def ended(tokens: torch.Tensor, ends: torch.Tensor) -> bool:
    """Whether every row of tokens (batch, n) has one of `ends` (m,)."""
    return bool(torch.isin(tokens, ends).any(1).all())


def until_end(tokens: torch.Tensor, ends: Collection[int]) -> torch.Tensor:
    """tokens (n,) up to the first of `ends`, that one with them."""
    values: list[Any] = tokens.tolist()
    at = next((i for i, token in enumerate(values) if token in ends), len(values))
    return tokens[: at + 1]
