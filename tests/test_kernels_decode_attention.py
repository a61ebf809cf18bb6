"""Attention by Triton equals the plain formulas: on a GPU where there is one, else by Triton's interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantizers.kernels import lean_glue

triton = pytest.importorskip("triton", reason="Triton comes with torch for CUDA")
# batch, heads, heads of keys, d, capacity, place, norms of heads
CASES = [
    (1, 4, 1, 32, 40, 0, False),
    (2, 8, 2, 64, 70, 37, True),
    (3, 6, 2, 32, 2100, 2099, False),  # several tiles a part
    (2, 4, 4, 32, 64, 31, True),  # the last token of a part
    (1, 4, 2, 32, 64, 32, False),  # the first
    (1, 64, 2, 128, 64, 63, False),  # 32 query heads to one of keys
]


def compared(dtype: torch.dtype, device: str, case: tuple[int, int, int, int, int, int, bool]) -> float:
    """The largest difference of outputs and caches."""
    from quantizers.kernels.decode_attention import PlacedAttention

    batch, heads, key_heads, d, capacity, place, normed = case
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    q, k, v = torch.split(draw(batch, (heads + 2 * key_heads) * d).to(dtype), [heads * d, *[key_heads * d] * 2], dim=1)
    keys, values = draw(batch, key_heads, capacity, d).to(dtype), draw(batch, key_heads, capacity, d).to(dtype)
    norms = [draw(d).to(dtype) if normed else None for _ in range(2)]
    angle, at = draw(capacity, d), torch.tensor([place], device=device)
    given = angle.cos(), angle.sin(), at
    other = keys.clone(), values.clone()
    attention = PlacedAttention()
    ours = attention(q, k, v, *given, *other, *norms, 1e-5)
    assert torch.equal(attention(q, k, v, *given, *other, *norms, 1e-5), ours), "counts are set back; the same bits"
    turned = lean_glue.place_token(q, k, v, *given, keys, values, *norms, 1e-5)
    expected = lean_glue.masked_attention(turned, keys, values, at)
    assert torch.equal(other[1], values)
    return max((a - b).abs().max().item() for a, b in ((ours, expected), (other[0], keys)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_attention_on_a_gpu(case: tuple[int, int, int, int, int, int, bool]) -> None:
    assert compared(torch.float16, "cuda", case) < 1e-2  # two roundings of numbers below 4


INTERPRETED = """
import torch
from test_kernels_decode_attention import CASES, compared
for case in CASES:
    assert compared(torch.float32, "cpu", case) < 1e-5, case
    assert compared(torch.float16, "cpu", case) < 1e-2, case
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")
def test_attention_interpreted() -> None:
    """In a process of its own: Triton reads the variable when kernels are defined."""
    here = Path(__file__).parent
    code = f"import os, sys; os.environ['TRITON_INTERPRET'] = '1'; sys.path[:0] = {[*sys.path, str(here)]!r}\n"
    subprocess.run([sys.executable, "-c", code + INTERPRETED], check=True, cwd=here.parent)


def test_heads_that_do_not_fit_are_said() -> None:
    from quantizers.kernels.decode_attention import PlacedAttention

    q, cache = torch.zeros(1, 96), torch.zeros(1, 1, 8, 48)
    with pytest.raises(ValueError, match="not 48"):
        PlacedAttention()(q, q, q, q, q, torch.zeros(1), cache, cache, None, None, 1e-5)
