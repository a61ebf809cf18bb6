r"""What stands between the products of a block of the Llama kind, for one token a sequence, as functions of tensors.

    h' = h + d,  n = w h' / sqrt(mean(h'^2) + eps)         residual, RMSNorm (Zhang, Sennrich, 2019, arXiv 1910.07467)
    q' = q cos + rot(q) sin,  rot(a, b) = (-b, a)          rotary positions (Su et al., 2021, arXiv 2104.09864)
    o = sum_t softmax_t(q' k_t / sqrt(d)) v_t              attention, g query heads to one of keys
    m = silu(gate) up                                      (Shazeer, 2020, arXiv 2002.05202)

Each is a few passes over at most some thousand numbers: time is launches, so torch.compile makes one kernel of each.
Sums are float32. The place of the token is read from the device, so that one CUDA graph holds for every place."""

from __future__ import annotations

import torch
from torch.nn import functional

MOST_PARTS = 256  # of the vocabulary


def norm(h: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """h (..., n), weight (n,) -> (..., n)."""
    wide = h.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * scaled.to(h.dtype)


def add_norm(
    h: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """h, delta (batch, n) -> h', n."""
    h = h + delta
    return h, norm(h, weight, eps)


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x (batch, heads, d), cos and sin (1, d) -> the same shape and dtype."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def place_token(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, place: torch.Tensor,
    keys: torch.Tensor, values: torch.Tensor, q_weight: torch.Tensor | None, k_weight: torch.Tensor | None, eps: float,
) -> torch.Tensor:  # fmt: skip
    """q' (batch, heads, 1, d); k' and v are written into the caches at `place`.

    q (batch, heads d), k and v (batch, key heads d); cos, sin (capacity, d) float32; place (1,) int64; keys, values
    (batch, key heads, capacity, d); q_weight, k_weight (d,): of the norms of heads, where the family has them."""
    batch, key_heads, _, d = keys.shape
    q, k = q.reshape(batch, -1, d), k.reshape(batch, key_heads, d)
    q = q if q_weight is None else norm(q, q_weight, eps)
    k = k if k_weight is None else norm(k, k_weight, eps)
    cos, sin = cos[place], sin[place]
    keys[:, :, place] = turned(k, cos, sin)[:, :, None]
    values[:, :, place] = v.reshape(batch, key_heads, 1, d)
    return turned(q, cos, sin)[:, :, None]


def masked_attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """(batch, heads d) over the tokens up to `place`. q (batch, heads, 1, d); one kernel for scores, one or two for the
    softmax and the sum, all reading the caches once."""
    batch, key_heads, capacity, d = keys.shape
    grouped = q.reshape(batch, key_heads, -1, 1, d).float()
    scores = (grouped * keys[:, :, None].float()).sum(-1) * d**-0.5  # (batch, key heads, group, capacity)
    later = torch.arange(capacity, device=q.device) > place
    weights = scores.masked_fill(later, float("-inf")).softmax(-1)
    mixed = (weights[..., None] * values[:, :, None].float()).sum(-2)
    return mixed.reshape(batch, -1).to(q.dtype)


def full_attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The same for the last place of the caches, by PyTorch's own kernels, which split the tokens among blocks."""
    mixed = functional.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
    return mixed.reshape(q.shape[0], -1)


def activate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """(batch, n) each."""
    return functional.silu(gate) * up


def greedy(logits: torch.Tensor, tokens: torch.Tensor) -> None:
    """The likeliest token of each sequence, the first of equal ones, into `tokens` (batch,).

    By parts of the vocabulary, then among their best: over a whole row one block works, 29 us for 128,256."""
    batch, count = logits.shape
    parts = max(n for n in range(1, MOST_PARTS + 1) if not count % n)
    each = logits.view(batch, parts, count // parts)
    best, places = each.amax(-1), each.argmax(-1)
    part = best.argmax(-1, keepdim=True)
    tokens.copy_((part * (count // parts) + places.gather(1, part)).squeeze(1))
