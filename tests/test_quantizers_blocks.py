"""Block formats against their definitions: tables, scales, ties, short last groups."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import make_quantizer, names
from quantizers.block import Block
from quantizers.blocks import nearest_codes
from quantizers.grouped_integer import grouped_integer
from quantizers.normal_float import normal_float, normal_levels
from quantizers.packing import pack, unpack
from quantizers.scales import Float16Scale, PowerOfTwo, TwoLevel

BLOCKS = [quantizer for name in names() if isinstance(quantizer := make_quantizer(name), Block)]
# QLoRA (arXiv 2305.14314), appendix E
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_normal_float_is_the_published_table() -> None:
    assert normal_levels(4) == pytest.approx(NF4, rel=2.0**-11)
    for bits in range(2, 9):
        levels = normal_levels(bits)
        assert len(levels) == 1 << bits
        assert list(levels) == sorted(set(levels))
        assert (levels[0], levels[(1 << (bits - 1)) - 1], levels[-1]) == (-1, 0, 1)


def test_e2m1_is_its_bit_fields() -> None:
    for code, value in enumerate(make_quantizer("mxfp4").values):  # type: ignore[attr-defined]
        sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
        magnitude = mantissa / 2 if exponent == 0 else 2 ** (exponent - 1) * (1 + mantissa / 2)
        assert value == (-1) ** sign * magnitude


@settings(max_examples=60, deadline=None)
@given(x=st.floats(-10, 10, width=32), which=st.sampled_from(BLOCKS))
def test_nearest_code_is_the_nearest_value(x: float, which: Block) -> None:
    code = int(nearest_codes(torch.tensor([x]), torch.tensor(which.values)))
    assert abs(which.values[code] - x) <= min(abs(value - x) for value in which.values) * (1 + 1e-6)


def test_ties_go_to_the_even_code_and_zero_has_no_sign() -> None:
    values = torch.tensor(make_quantizer("mxfp4").values)  # type: ignore[attr-defined]
    x = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -0.75, -5.0, -0.1, 7.9])
    assert values[nearest_codes(x, values)].tolist() == [0, 1, 1, 2, 2, 4, 4, 0, -1, -4, 0, 6]
    assert nearest_codes(torch.tensor([0.0, -0.0]), values).tolist() == [0, 0]


@pytest.mark.parametrize("quantizer", BLOCKS, ids=lambda q: q.name)
def test_every_weight_takes_the_best_code_of_its_stored_scale(quantizer: Block) -> None:
    rows, columns = 3, 2 * quantizer.group + 5  # the last group is short
    weight = gaussian(rows, columns, seed=1)
    encoded = quantizer.encode(weight)
    scale = quantizer.scale.decode(encoded.tensors)
    assert scale.shape == (rows, 3)
    decoded = quantizer.decode(encoded)
    for row in range(rows):
        for block in range(3):
            part = slice(block * quantizer.group, min(columns, (block + 1) * quantizer.group))
            grid = scale[row, block].double() * torch.tensor(quantizer.values, dtype=torch.float64)
            best = (weight[row, part].double()[:, None] - grid).abs().amin(1)
            found = (weight[row, part].double() - decoded[row, part].double()).abs()
            assert (found <= best + 1e-6 * scale[row, block]).all()


@pytest.mark.parametrize(
    "name", ["int-4-g32", "int-4-g32-asym", "nf-4-g32", "nf-3-g64-e4m3", "mxfp4", "mxint8", "nvfp4"]
)
def test_a_group_does_not_see_its_neighbours(name: str) -> None:
    quantizer, weight = make_quantizer(name), gaussian(2, 128)
    weight[0, 70] = 4.0  # the largest of its block and of the matrix, before and after
    changed = weight.clone()
    changed[0, 64:] *= 0.5
    changed[0, 70] = 4.0
    first, second = (quantizer.decode(quantizer.encode(w)) for w in (weight, changed))
    assert torch.equal(first[:, :64], second[:, :64])
    assert not torch.equal(first[:, 64:], second[:, 64:])


@pytest.mark.parametrize(("largest", "exponent"), [(6.0, 2), (127 / 64, 0)])
def test_power_of_two_scale_is_the_specification(largest: float, exponent: int) -> None:
    peak = torch.tensor([[1.0, 0.999, 2.0, 6.0, 7.99, 8.0, 1e-30, 3e38, 0.0, 1e-45]])
    expected = [2.0 ** max(-127, math.floor(math.log2(p)) - exponent) if p > 0 else 2.0**-127 for p in peak[0].tolist()]
    tensors = PowerOfTwo().encode(peak, largest)
    assert tensors["scales"].dtype == torch.uint8
    assert PowerOfTwo().decode(tensors)[0].tolist() == expected


def test_two_level_scale_puts_the_largest_at_448() -> None:
    peak = gaussian(4, 8).abs() + 0.1
    tensors = TwoLevel().encode(peak, 6.0)
    tensor_scale = peak.max().item() / (6 * 448)
    wanted = peak.double() / 6 / tensor_scale
    stored = tensors["scales"].view(torch.float8_e4m3fn).double()
    assert stored.max() == 448
    assert ((stored - wanted).abs() <= wanted * 2.0**-4 + 1e-9).all()  # three bits of mantissa
    torch.testing.assert_close(TwoLevel().decode(tensors).double(), stored * tensor_scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_group_is_round_to_nearest(bits: int) -> None:
    weight, m = gaussian(5, 64), 2 ** (bits - 1) - 1
    quantizer = grouped_integer(bits, 64)
    encoded = quantizer.encode(weight)
    scale = (weight.abs().amax(1, keepdim=True) / m).half()
    assert torch.equal(encoded.tensors["scales"], scale)
    q = (weight / scale.float()).round()
    assert torch.equal(unpack(encoded.tensors["codes"], bits, 320).view(5, 64), (q + m).int())
    assert torch.equal(quantizer.decode(encoded), q * scale.float())
    # a whole row as one group is the quantizer with a scale a row
    row_wise = make_quantizer(f"int-{bits}")
    assert torch.equal(row_wise.decode(row_wise.encode(weight)), quantizer.decode(encoded))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_zero_points_cover_the_range(bits: int, shift: float) -> None:
    quantizer, weight, top = make_quantizer(f"int-{bits}-g32-asym"), gaussian(4, 70) + shift, (1 << bits) - 1
    encoded = quantizer.encode(weight)
    decoded = quantizer.decode(encoded)
    zeros = unpack(encoded.tensors["zeros"], bits, 12).view(4, 3)
    for block in range(3):
        part = slice(32 * block, min(70, 32 * block + 32))
        own = weight[:, part].double()
        low, high = own.amin(1).clamp(max=0), own.amax(1).clamp(min=0)
        step = ((high - low) / top).half()
        assert torch.equal(encoded.tensors["scales"][:, block], step)
        zero = (-low / step.double()).round().clamp(0, top)
        assert torch.equal(zeros[:, block], zero.int())
        grid = step.double()[:, None] * (torch.arange(top + 1) - zero[:, None])
        best = (own[:, :, None] - grid[:, None, :]).abs().amin(2)
        assert ((own - decoded[:, part]).abs() <= best + 1e-5).all()


def test_storage_counts_scales_and_zero_points() -> None:
    rows, columns = 10, 100  # two groups of 64, four of 32, seven of 16 a row
    counted = {
        "int-3-g64": 375 + 10 * 2 * 2,
        "int-3-g64-asym": 375 + 10 * 2 * 2 + math.ceil(10 * 2 * 3 / 8),
        "nf-4-g64": 500 + 10 * 2 * 2,
        "nf-4-g64-e4m3": 500 + 10 * 2 + 4,
        "mxfp4": 500 + 10 * 4,
        "mxint8": 1000 + 10 * 4,
        "nvfp4": 500 + 10 * 7 + 4,
        "e8": 10 * 13 * 2 + 10 * 2,
    }
    for name, expected in counted.items():
        quantizer = make_quantizer(name)
        assert quantizer.storage_bytes(rows, columns) == expected
        assert quantizer.encode(gaussian(rows, columns)).storage_bytes == expected


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="2 to 8 bits, not 9"):
        normal_float(9, 64, Float16Scale())
    with pytest.raises(ValueError, match="2 to 8 bits, not 1"):
        grouped_integer(1, 64)
    with pytest.raises(ValueError, match="at least 2 weights"):
        grouped_integer(4, 1)
    with pytest.raises(ValueError, match="not 3"):
        Block(label="three", bits=2, values=(-1.0, 0.0, 1.0), group=8, scale=Float16Scale())
    with pytest.raises(ValueError, match="zero among them"):
        Block(label="third", bits=1, values=(0.0, 1 / 3), group=8, scale=Float16Scale())


def test_a_new_format_is_a_table() -> None:
    ternary = Block(label="ternary", bits=2, values=(-1.0, 0.0, 1.0, 1.0), group=16, scale=PowerOfTwo())
    weight = torch.tensor([[0.9, -1.1, 0.3, 0.0] * 4])
    encoded = ternary.encode(weight)
    assert torch.equal(ternary.decode(encoded), torch.tensor([[1.0, -1.0, 0.0, 0.0] * 4]))
    assert torch.equal(encoded.tensors["codes"], pack(torch.tensor([2, 0, 1, 1] * 4), 2))
