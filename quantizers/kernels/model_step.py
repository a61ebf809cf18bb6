r"""One decoding step by transformers' own modelling code: any family, eager, its launches held by a CUDA graph.

A static cache counts the tokens it has, on the device; `start_at` sets the count, so that a graph of the step can be
replayed any number of times at places that end before the last."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import StaticCache


class ModelStep:
    """`batch` sequences with `capacity` places in their static caches; each call is one place further."""

    def __init__(self, model: nn.Module, *, batch: int, capacity: int) -> None:
        self._model: Any = model
        self.capacity = capacity
        device = next(model.parameters()).device
        self._cache = StaticCache(config=self._model.config, max_cache_len=capacity)
        self.tokens = torch.zeros(batch, dtype=torch.int64, device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        self()  # the first call makes the caches
        self.start_at(0)

    @property
    def cache_bytes(self) -> int:
        """Of keys and values, all blocks."""
        layers: Any = self._cache.layers
        return sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))

    def rewind(self, calls: int) -> None:
        """The next so many calls end at the last place. ValueError where there are not so many places."""
        if calls > self.capacity:
            raise ValueError(f"{calls} calls do not fit a context of {self.capacity} tokens (--step lean: any number)")
        self.start_at(self.capacity - calls)

    def start_at(self, place: int) -> None:
        """The next call is at this place, at which a window is full or not: a graph is of one of the two."""
        layers: Any = self._cache.layers
        for layer in layers:
            layer.cumulative_length.fill_(min(place, layer.max_cache_len))
            if layer.is_sliding:
                layer.cumulative_length_int = place  # what chooses between filling the window and rolling it
        self.place.fill_(place)

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        """Logits (batch, vocabulary) of `tokens`; their greedy successors are then in `tokens`."""
        positions = self.place.expand(len(self.tokens))[:, None]
        logits: torch.Tensor = self._model(
            input_ids=self.tokens[:, None], position_ids=positions, past_key_values=self._cache, use_cache=True
        ).logits[:, 0]
        self.tokens.copy_(logits.argmax(-1))
        self.place.add_(1)
        return logits
