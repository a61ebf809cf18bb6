r"""Rotary, cache and attention of one token in two launches (Triton), instead of the six or so of `lean_glue`.

    o = sum_p e^(m_p - m) a_p / sum_p e^(m_p - m) n_p,   m = max_p m_p               (Flash-Decoding, Dao et al., 2023)
    a part p of the tokens:  m_p = max_t s_t,  n_p = sum_t e^(s_t - m_p),  a_p = sum_t e^(s_t - m_p) v_t,  s_t = q' k_t

`_parts`: a block for each sequence, head of keys and part of the cache, with all query heads of that head of keys as
rows of a tile. Every block turns q itself; the one whose part has the place of the token turns k, writes k' and v into
the caches and adds their term; all read only tokens before the place, so that no block waits for another. `_whole` adds
the parts up. Bound: the bytes of the caches; at batch 1 and 512 tokens, 2 MB, the latency of two launches.

Products of q' k and of the weights with v are of 16 bits by tensor cores, sums float32. It imports Triton, which comes
with torch for CUDA, and is imported where it is asked for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 32  # tokens of a step of a block
MOST_PARTS = 64
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
def _turned(first, second, cos, sin, i, dtype: tl.constexpr, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """(.., HALF) float32 twice -> rotated, in dtype. cos, sin: at the row of the place."""
    a = first * tl.load(cos + i)[None, :] - second * tl.load(sin + i)[None, :]
    b = second * tl.load(cos + HALF + i)[None, :] + first * tl.load(sin + HALF + i)[None, :]
    return a.to(dtype), b.to(dtype)


@triton.jit
def _parts(  # type: ignore[no-untyped-def]
    q, k, v, q_weight, k_weight, cos, sin, place_at, keys, values, most, total, sums,
    q_stride, k_stride, v_stride, capacity, eps, scale,
    NORMED: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, KEY_HEADS: tl.constexpr, HALF: tl.constexpr,
    TILE: tl.constexpr, TILES: tl.constexpr, PARTS: tl.constexpr, OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """q (batch, KEY_HEADS GROUP d), k, v (batch, KEY_HEADS d); most, total (heads of all, PARTS); sums (same, d)."""
    D: tl.constexpr = 2 * HALF
    dtype: tl.constexpr = keys.dtype.element_ty
    batch, head, part = tl.program_id(0) // KEY_HEADS, tl.program_id(0) % KEY_HEADS, tl.program_id(1)
    i, j, rows = tl.arange(0, HALF), tl.arange(0, D), tl.arange(0, ROWS)
    begin = part * TILE * TILES
    cache = (batch * KEY_HEADS + head).to(tl.int64) * capacity * D
    # The first tile of the cache, whatever of it is seen: no kernel of this step has written it.
    t = begin + tl.arange(0, TILE)
    of_keys, of_values = keys + cache + i[None, :], values + cache + j[None, :]
    tile_first = tl.load(of_keys + t[:, None] * D, mask=(t < capacity)[:, None], other=0.0)  # (TILE, HALF)
    tile_second = tl.load(of_keys + t[:, None] * D + HALF, mask=(t < capacity)[:, None], other=0.0)
    tile_v = tl.load(of_values + t[:, None] * D, mask=(t < capacity)[:, None], other=0.0)
    if OVERLAPPED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    place = tl.load(place_at)
    cos += place * D
    sin += place * D
    own = (place >= begin) & (place < begin + TILE * TILES)

    at = k + batch * k_stride + head * D + i[None, :]
    k_first, k_second = tl.load(at).to(tl.float32), tl.load(at + HALF).to(tl.float32)  # (1, HALF)
    if NORMED:
        k_first, k_second = _normed(k_first, k_second, k_weight, i, eps, HALF)
    k_first, k_second = _turned(k_first, k_second, cos, sin, i, dtype, HALF)
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
    q_first, q_second = _turned(q_first, q_second, cos, sin, i, dtype, HALF)

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


@triton.jit
def _whole(  # type: ignore[no-untyped-def]
    most, total, sums, out, PARTS: tl.constexpr, PADDED: tl.constexpr, D: tl.constexpr, OVERLAPPED: tl.constexpr
):
    """out (heads of all, D)."""
    if OVERLAPPED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row, p, j = tl.program_id(0), tl.arange(0, PADDED), tl.arange(0, D)
    m = tl.load(most + row * PARTS + p, mask=p < PARTS, other=-1e30)
    n = tl.load(total + row * PARTS + p, mask=p < PARTS, other=0.0)
    a = tl.load(sums + (row * PARTS + p)[:, None] * D + j[None, :], mask=(p < PARTS)[:, None], other=0.0)
    share = tl.exp(m - tl.max(m, 0))
    mixed = tl.sum(share[:, None] * a, 0) / tl.sum(share * n, 0)
    tl.store(out + row * D + j, mixed.to(out.dtype.element_ty))


def parts_of(capacity: int) -> tuple[int, int]:
    """(parts of the cache, steps of a block)."""
    tiles = -(-capacity // TILE)
    each = -(-tiles // MOST_PARTS)
    return -(-tiles // each), each


def placed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, place: torch.Tensor,
    keys: torch.Tensor, values: torch.Tensor, q_weight: torch.Tensor | None, k_weight: torch.Tensor | None, eps: float,
) -> torch.Tensor:  # fmt: skip
    """(batch, heads d): attention over the tokens up to `place`, whose k' and v are written into the caches.

    Arguments as of `lean_glue.place_token`; d a power of two of at least 32, rows of q, k, v contiguous. ValueError on
    what is neither."""
    batch, key_heads, capacity, d = keys.shape
    if d < 32 or d & (d - 1) or any(x.stride(-1) != 1 for x in (q, k, v)):
        raise ValueError(
            f"heads have a power of two of at least 32 numbers, side by side; not {d}, strides {q.stride()}"
        )
    heads = q.shape[1] // d
    parts, tiles = parts_of(capacity)
    most, total = (torch.empty(batch * heads, parts, device=q.device) for _ in range(2))
    sums = torch.empty(batch * heads, parts, d, device=q.device)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    group = heads // key_heads
    # The launch of one kernel while the one before it works (cuda/launch.cuh)
    overlapped = q.is_cuda and torch.cuda.get_device_capability(q.device) >= (9, 0)
    launch = {"launch_pdl": True} if overlapped else {}
    _parts[(batch * key_heads, parts)](
        q, k, v, keys if q_weight is None else q_weight, keys if k_weight is None else k_weight, cos, sin, place,
        keys, values, most, total, sums, q.stride(0), k.stride(0), v.stride(0), capacity, eps, d**-0.5,
        NORMED=q_weight is not None, GROUP=group, ROWS=max(LEAST_ROWS, triton.next_power_of_2(group)),
        KEY_HEADS=key_heads, HALF=d // 2, TILE=TILE, TILES=tiles, PARTS=parts,
        OVERLAPPED=overlapped, num_warps=4, **launch,
    )  # fmt: skip
    _whole[(batch * heads,)](
        most, total, sums, out, PARTS=parts, PADDED=triton.next_power_of_2(parts), D=d, OVERLAPPED=overlapped,
        num_warps=4, **launch,
    )  # fmt: skip
    return out
