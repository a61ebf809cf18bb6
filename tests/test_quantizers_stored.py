"""Codes of every family through what holds them: the module under casts, the code cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quantizers import FAMILIES, Quantizer, make_quantizer
from quantizers.checkpoint.code_cache import CachedCode, CodeCache, code_key
from quantizers.linear import QuantizedLinear
from quantizers.rotation import Rotation

FIRST = [next(iter(family.members)) for family in FAMILIES] + ["nvfp4", "mxint8"]


def made(name: str) -> tuple[Quantizer, Rotation | None, torch.Tensor]:
    quantizer = make_quantizer(name, state_bits=8)
    weight = torch.randn(24, 80, generator=torch.Generator().manual_seed(0))
    return quantizer, Rotation(in_features=80, seed=1, group="g") if quantizer.rotated else None, weight


@pytest.mark.parametrize("name", FIRST)
def test_a_cast_of_the_module_changes_no_bit(name: str) -> None:
    quantizer, rotation, weight = made(name)
    encoded = quantizer.encode(weight)
    module = QuantizedLinear(quantizer, encoded, rotation)
    before = quantizer.decode(encoded)
    for dtype in (torch.bfloat16, torch.float64, torch.float16):
        assert torch.equal(quantizer.decode(module.to(dtype).encoded), before)
    assert module.storage_bytes == quantizer.storage_bytes(24, 80)


@pytest.mark.parametrize("name", FIRST)
def test_the_code_cache_returns_the_same_codes(name: str, tmp_path: Path) -> None:
    quantizer, rotation, weight = made(name)
    encoded = quantizer.encode(weight)
    cache, key = CodeCache(tmp_path), code_key(weight, quantizer, rotation)
    cache.put(key, CachedCode(encoded=encoded, distortion=0.25))
    found = cache.get(key, 24, 80)
    assert found is not None
    assert found.distortion == 0.25
    assert torch.equal(quantizer.decode(found.encoded), quantizer.decode(encoded))
    assert {k: (t.dtype, t.shape) for k, t in found.encoded.tensors.items()} == {
        k: (t.dtype, t.shape) for k, t in encoded.tensors.items()
    }
