"""The bit stream against its definition, one bit at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.packing import pack, packed_bytes, unpack


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 16), count=st.integers(1, 50), seed=st.integers(0, 1 << 16))
def test_stream_is_the_definition_and_comes_back(bits: int, count: int, seed: int) -> None:
    values = torch.randint(0, 1 << bits, (count,), generator=torch.Generator().manual_seed(seed))
    codes = pack(values, bits)
    assert codes.dtype == torch.uint8
    assert codes.numel() == packed_bytes(count, bits) == (count * bits + 7) // 8
    stream = [codes[p // 8].item() >> (p % 8) & 1 for p in range(8 * codes.numel())]
    expected = [values[p // bits].item() >> (p % bits) & 1 for p in range(count * bits)]
    assert stream[: count * bits] == expected
    assert not any(stream[count * bits :])
    assert torch.equal(unpack(codes, bits, count), values.to(torch.int32))


def test_truncated_stream_is_refused() -> None:
    codes = pack(torch.arange(16), 5)
    with pytest.raises(ValueError, match="10 bytes"):
        unpack(codes[:-1], 5, 16)
    with pytest.raises(ValueError, match="uint8"):
        unpack(codes.to(torch.int32), 5, 16)
