"""docs/format.md on the computed trellis: its hand-worked example, in plain integers, and its table of constants."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from quantizers import make_quantizer
from quantizers.base import Encoded
from quantizers.trellis.computed import CONSTANTS, native_state_bits, shifts
from quantizers.trellis.mixed_stream import codes_to_states, symbols_to_codes

PAGE = (Path(__file__).resolve().parent.parent / "docs/format.md").read_text().split("## Computed trellis")[1]
MULTIPLIER = 0x2516611D


def example() -> torch.Tensor:
    """The symbols (1, 256) of the example."""
    symbols = torch.zeros(1, 256, dtype=torch.uint8)
    symbols[0, :8] = torch.tensor([5, 2, 7, 9, 1, 0, 3, 12])
    symbols[0, 252:] = torch.tensor([1, 2, 3, 4])
    return symbols


def test_constants_on_the_page_are_those_in_use() -> None:
    found = re.findall(r"\| ([\d.]+) \| (0x[0-9A-F]{8}) \| (0\.\d+|1\.\d+) ", PAGE)
    assert {round(4 * float(rate)): (int(m, 16), float(gain)) for rate, m, gain in found} == CONSTANTS
    for quarters in CONSTANTS:
        assert native_state_bits(quarters) == (16 if quarters <= 10 or quarters in (13, 16, 17) else 17)


def test_hand_worked_stream_and_states() -> None:
    assert shifts(13) == (3, 3, 3, 4)
    stream = 0x13D5 | 0x18C1 << 13 | 0x8D1 << 819  # the three periods that are not zero
    assert 0x13D5 == 5 + 2 * 8 + 7 * 64 + 9 * 512
    assert 0x18C1 == 1 + 0 * 8 + 3 * 64 + 12 * 512
    assert 0x8D1 == 1 + 2 * 8 + 3 * 64 + 4 * 512
    codes = stream.to_bytes(104, "little")
    assert codes[:4] == bytes.fromhex("D5331803")
    assert codes[102:] == bytes.fromhex("8846")
    assert bytes(symbols_to_codes(example(), 13).tolist()) == codes
    states = codes_to_states(torch.tensor(list(codes), dtype=torch.uint8), 13, 16)[0].tolist()
    assert states[:4] == [0xA8D1, 0x551A, 0xEAA3, 0x9EAA]
    assert states[0] == 5 << 13 | 0x8D1
    assert states[1] == states[0] >> 3 | 2 << 13
    assert states[3] == states[2] >> 4 | 9 << 12


def test_hand_worked_weights() -> None:
    assert 0xA8D1 * MULTIPLIER % (1 << 32) == 0xF70050AD
    assert 0x551A * MULTIPLIER % (1 << 32) == 0x32847DF2
    row_scale = torch.ones(16, dtype=torch.float16)
    row_scale[8] = 2
    tensors = {"codes": symbols_to_codes(example(), 13), "row_scale": row_scale}
    decoded = make_quantizer("trellis-3.25").decode(Encoded(out_features=16, in_features=16, tensors=tensors))
    deviation = (4 * (256**2 - 1) / 12) ** 0.5
    assert decoded[0, 0].item() == pytest.approx((-83 + 80 + 0 - 9) / (deviation * 0.93), rel=1e-6)
    assert decoded[8, 0].item() == pytest.approx(2 * (-14 + 125 - 124 + 50) / (deviation * 0.93), rel=1e-6)
    assert round(decoded[0, 0].item(), 4) == -0.0873
    assert round(decoded[8, 0].item() / 2, 4) == 0.2692
    for text in ("-0.0873 `row_scale[0]`", "0.2692 `row_scale[8]`", "0xF70050AD", "0x32847DF2", "D5 33 18 03", "88 46"):
        assert text in PAGE
