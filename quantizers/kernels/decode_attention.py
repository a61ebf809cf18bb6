r"""Rotary, cache and attention of one token in one launch (Triton), instead of the six or so of `lean_glue`.

    o = sum_p e^(m_p - m) a_p / sum_p e^(m_p - m) n_p,   m = max_p m_p               (Flash-Decoding, Dao et al., 2023)
    a part p of the tokens:  m_p = max_t s_t,  n_p = sum_t e^(s_t - m_p),  a_p = sum_t e^(s_t - m_p) v_t,  s_t = q' k_t

A block for each sequence, head of keys and part of the cache, with all query heads of that head of keys as rows of a
tile. Every block turns q itself; the one whose part has the place of the token turns k, writes k' and v into the caches
and adds their term; all read only tokens before the place, so that no block waits for another. The last block of a head
of keys to be done, by a count that it sets back, adds the parts up, always in the same order. Bound: the bytes of the
caches; at batch 1 and 512 tokens, 2 MB, the latency of a launch and of the parts' way through the second cache.

Products of q' k and of the weights with v are of 16 bits by tensor cores, sums float32. It imports Triton, which comes
with torch for CUDA, and is imported where it is asked for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 32  # tokens of a step of a block
MOST_PARTS = 64
HELD = 8192  # numbers of parts that a block adds up at once
LEAST_ROWS = 16  # of a tile of a tensor core


@triton.jit
def _normed(first, second, weight, i, eps, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """(.., HALF) float32 twice -> the same, RMSNorm of the head, rounded as the layer is."""
    dtype = weight.dtype.element_ty
    inverse = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * HALF) + eps)[:, None]
    first_weight, second_weight = tl.load(weight + i)[None, :], tl.load(weight + HALF + i)[None, :]
    first, second = (first * inverse).to(dtype) * first_weight, (second * inverse).to(dtype) * second_weight
    return first.to(tl.float32), second.to(tl.float32)


@triton.jit
def _turned(  # type: ignore[no-untyped-def]
    first, second, cos_first, cos_second, sin_first, sin_second, dtype: tl.constexpr
):
    """(.., HALF) float32 twice -> rotated, in dtype. The rest: (1, HALF), of the place."""
    return (first * cos_first - second * sin_first).to(dtype), (second * cos_second + first * sin_second).to(dtype)


@triton.jit
def _add_parts(  # type: ignore[no-untyped-def]
    most, total, sums, out, first, GROUP: tl.constexpr, PADDED: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """out of the query heads `first` to first + GROUP - 1, past the first cache: other blocks wrote the parts."""
    rows, j = tl.arange(0, PADDED), tl.arange(0, D)
    real, heads = rows < GROUP, first + rows
    m = tl.full((PADDED,), -1e30, tl.float32)
    n = tl.zeros((PADDED,), tl.float32)
    a = tl.zeros((PADDED, D), tl.float32)
    for begin in range(0, PARTS, AT_ONCE):
        p = begin + tl.arange(0, AT_ONCE)
        there = real[:, None] & (p < PARTS)[None, :]
        at = heads[:, None] * PARTS + p[None, :]
        m_p = tl.load(most + at, mask=there, other=-1e30, cache_modifier=".cg")  # (PADDED, AT_ONCE)
        n_p = tl.load(total + at, mask=there, other=0.0, cache_modifier=".cg")
        of_d = sums + at[:, :, None] * D + j[None, None, :]
        a_p = tl.load(of_d, mask=there[:, :, None], other=0.0, cache_modifier=".cg")
        larger = tl.maximum(m, tl.max(m_p, 1))
        share, shrink = tl.exp(m_p - larger[:, None]), tl.exp(m - larger)
        n = n * shrink + tl.sum(share * n_p, 1)
        a = a * shrink[:, None] + tl.sum(share[:, :, None] * a_p, 1)
        m = larger
    mixed = a / n[:, None]
    tl.store(out + heads[:, None] * D + j[None, :], mixed.to(out.dtype.element_ty), mask=real[:, None])


@triton.jit
def _parts(  # type: ignore[no-untyped-def]
    q, k, v, q_weight, k_weight, cos, sin, place_at, keys, values, most, total, sums, done, out,
    q_stride, k_stride, v_stride, capacity, eps, scale,
    NORMED: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, KEY_HEADS: tl.constexpr, HALF: tl.constexpr,
    TILE: tl.constexpr, TILES: tl.constexpr, PARTS: tl.constexpr, AT_ONCE: tl.constexpr, PADDED: tl.constexpr,
    OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """q (batch, KEY_HEADS GROUP d), k, v (batch, KEY_HEADS d); most, total (heads of all, PARTS); sums (same, d); done
    (batch KEY_HEADS,) int32, zeros; out (batch, KEY_HEADS GROUP d). PADDED: GROUP, a power of two."""
    D: tl.constexpr = 2 * HALF
    dtype: tl.constexpr = keys.dtype.element_ty
    batch, head, part = tl.program_id(0) // KEY_HEADS, tl.program_id(0) % KEY_HEADS, tl.program_id(1)
    i, j, rows = tl.arange(0, HALF), tl.arange(0, D), tl.arange(0, ROWS)
    begin = part * TILE * TILES
    cache = (batch * KEY_HEADS + head).to(tl.int64) * capacity * D
    # The first tile of the cache, whatever of it is seen, the place and its angles: no kernel of this step wrote them.
    t = begin + tl.arange(0, TILE)
    of_keys, of_values = keys + cache + i[None, :], values + cache + j[None, :]
    tile_first = tl.load(of_keys + t[:, None] * D, mask=(t < capacity)[:, None], other=0.0)  # (TILE, HALF)
    tile_second = tl.load(of_keys + t[:, None] * D + HALF, mask=(t < capacity)[:, None], other=0.0)
    tile_v = tl.load(of_values + t[:, None] * D, mask=(t < capacity)[:, None], other=0.0)
    place = tl.load(place_at)
    cos_first, cos_second = tl.load(cos + place * D + i)[None, :], tl.load(cos + place * D + HALF + i)[None, :]
    sin_first, sin_second = tl.load(sin + place * D + i)[None, :], tl.load(sin + place * D + HALF + i)[None, :]
    if OVERLAPPED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    own = (place >= begin) & (place < begin + TILE * TILES)

    at = k + batch * k_stride + head * D + i[None, :]
    k_first, k_second = tl.load(at).to(tl.float32), tl.load(at + HALF).to(tl.float32)  # (1, HALF)
    if NORMED:
        k_first, k_second = _normed(k_first, k_second, k_weight, i, eps, HALF)
    k_first, k_second = _turned(k_first, k_second, cos_first, cos_second, sin_first, sin_second, dtype)
    own_v = tl.load(v + batch * v_stride + head * D + j)
    into = cache + place * D
    tl.store(keys + into + i[None, :], k_first, mask=own)
    tl.store(keys + into + HALF + i[None, :], k_second, mask=own)
    tl.store(values + into + j, own_v, mask=own)

    real = rows < GROUP
    at = q + batch * q_stride + (head * GROUP + rows)[:, None] * D + i[None, :]
    q_first = tl.load(at, mask=real[:, None], other=0.0).to(tl.float32)  # (ROWS, HALF)
    q_second = tl.load(at + HALF, mask=real[:, None], other=0.0).to(tl.float32)
    if NORMED:
        q_first, q_second = _normed(q_first, q_second, q_weight, i, eps, HALF)
    q_first, q_second = _turned(q_first, q_second, cos_first, cos_second, sin_first, sin_second, dtype)

    # The token itself first: it gives the maximum a finite start, or one that no real score is below.
    score = tl.sum(q_first.to(tl.float32) * k_first.to(tl.float32), 1)
    score = (score + tl.sum(q_second.to(tl.float32) * k_second.to(tl.float32), 1)) * scale
    m = tl.where(own, score, -1e30)  # (ROWS,)
    weight = tl.where(own, 1.0, 0.0)
    n = tl.zeros((ROWS,), tl.float32) + weight
    a = tl.zeros((ROWS, D), tl.float32) + weight * own_v.to(tl.float32)[None, :]
    for tile in range(TILES):
        seen = t < place
        s = tl.dot(q_first, tl.trans(tile_first), input_precision="ieee")
        s = (s + tl.dot(q_second, tl.trans(tile_second), input_precision="ieee")) * scale
        s = tl.where(seen[None, :], s, -1e30)  # (ROWS, TILE)
        larger = tl.maximum(m, tl.max(s, 1))
        p = tl.where(seen[None, :], tl.exp(s - larger[:, None]), 0.0)
        shrink = tl.exp(m - larger)
        n = n * shrink + tl.sum(p, 1)
        of_seen = tl.where(seen[:, None], tile_v, 0.0)
        a = a * shrink[:, None] + tl.dot(p.to(dtype), of_seen.to(dtype), input_precision="ieee")
        m = larger
        t += TILE
        left = (t < place) & (tile + 1 < TILES)
        tile_first = tl.load(of_keys + t[:, None] * D, mask=left[:, None], other=0.0)
        tile_second = tl.load(of_keys + t[:, None] * D + HALF, mask=left[:, None], other=0.0)
        tile_v = tl.load(of_values + t[:, None] * D, mask=left[:, None], other=0.0)

    to = ((batch * KEY_HEADS + head) * GROUP + rows) * PARTS + part
    tl.store(most + to, m, mask=real)
    tl.store(total + to, n, mask=real)
    tl.store(sums + to[:, None] * D + j[None, :], a, mask=real[:, None])
    tl.debug_barrier()  # all threads' parts, then the count
    if tl.atomic_add(done + tl.program_id(0), 1, sem="acq_rel") == PARTS - 1:
        tl.store(done + tl.program_id(0), 0)
        _add_parts(most, total, sums, out, tl.program_id(0) * GROUP, GROUP, PADDED, D, PARTS, AT_ONCE)


def parts_of(capacity: int) -> tuple[int, int]:
    """(parts of the cache, steps of a block)."""
    tiles = -(-capacity // TILE)
    each = -(-tiles // MOST_PARTS)
    return -(-tiles // each), each


class PlacedAttention:
    """Attention of one stream: launches that share the counts must follow one another."""

    def __init__(self) -> None:
        self._done: torch.Tensor | None = None  # of parts, zero between launches

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
        place: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, q_weight: torch.Tensor | None,
        k_weight: torch.Tensor | None, eps: float,
    ) -> torch.Tensor:  # fmt: skip
        """(batch, heads d): attention over the tokens up to `place`, whose k' and v are written into the caches.

        Arguments as of `lean_glue.place_token`; d a power of two of at least 32, rows of q, k, v contiguous; place,
        cos, sin and the tokens before the place were written before this step began. ValueError of d and rows else."""
        batch, key_heads, capacity, d = keys.shape
        if d < 32 or d & (d - 1) or any(x.stride(-1) != 1 for x in (q, k, v)):
            raise ValueError(
                f"heads have a power of two of at least 32 numbers, side by side; not {d}, strides {q.stride()}"
            )
        if self._done is None or len(self._done) < batch * key_heads:
            self._done = torch.zeros(batch * key_heads, dtype=torch.int32, device=q.device)
        heads = q.shape[1] // d
        parts, tiles = parts_of(capacity)
        most, total = (torch.empty(batch * heads, parts, device=q.device) for _ in range(2))
        sums = torch.empty(batch * heads, parts, d, device=q.device)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        group = heads // key_heads
        padded = triton.next_power_of_2(group)
        # The launch of one kernel while the one before it works (cuda/launch.cuh)
        overlapped = q.is_cuda and torch.cuda.get_device_capability(q.device) >= (9, 0)
        _parts[(batch * key_heads, parts)](
            q, k, v, keys if q_weight is None else q_weight, keys if k_weight is None else k_weight, cos, sin, place,
            keys, values, most, total, sums, self._done, out, q.stride(0), k.stride(0), v.stride(0), capacity, eps,
            d**-0.5,
            NORMED=q_weight is not None, GROUP=group, ROWS=max(LEAST_ROWS, padded), KEY_HEADS=key_heads, HALF=d // 2,
            TILE=TILE, TILES=tiles, PARTS=parts, PADDED=padded,
            AT_ONCE=max(1, min(triton.next_power_of_2(parts), HELD // (padded * d))), OVERLAPPED=overlapped,
            num_warps=4, **({"launch_pdl": True} if overlapped else {}),
        )  # fmt: skip
        return out
