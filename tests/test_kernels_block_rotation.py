"""The rotation with the step before it and bytes behind it, and products of such bytes, against torch in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from emulated_kernels import PROCESSORS, emulated, library_folder, needs_gxx, on_cpu

from quantizers import make_quantizer
from quantizers.base import Encoded
from quantizers.kernels import activation_bytes, block_rotation, gemv, gemv_table
from quantizers.kernels.activation_bytes import ActivationBytes, Form
from quantizers.kernels.block_rotation import ADDED_NORM, Source, gated, normed, plain, rotate, takes
from quantizers.kernels.packed_product import form_of, multiply
from quantizers.rotation import Rotation

__all__ = ["library_folder", "on_cpu"]
EPS = 1e-5
ROUNDING = {torch.float16: 5e-4, torch.bfloat16: 4e-3}
SHAPES = [(1024, 1), (2048, 6), (4096, 3), (6144, 1)]


def sources(columns: int, batch: int, dtype: torch.dtype, device: str) -> list[tuple[Source, torch.Tensor]]:
    """Each with f in float64."""
    generator = torch.Generator().manual_seed(columns + batch)
    both = torch.randn(batch, 2 * columns, generator=generator).to(dtype)
    weight = (torch.rand(columns, generator=generator) + 0.5).to(dtype)
    first, second = both[:, :columns].contiguous(), both[:, columns:].contiguous()
    there = both.to(device)
    gate, up = there[:, :columns], there[:, columns:]  # neighbours in rows of one product

    def of_norm(h: torch.Tensor) -> torch.Tensor:
        h = h.double()
        return weight.double() * h * (h.square().mean(-1, keepdim=True) + EPS).rsqrt()

    put = partial(torch.Tensor.to, device=device)
    gates, ups = both[:, :columns].double(), both[:, columns:].double()
    return [
        (plain(put(first)), first.double()),
        (normed(put(first), None, put(weight), EPS), of_norm(first)),
        (normed(put(first), put(second), put(weight), EPS), of_norm(first + second)),
        (gated(gate, up), torch.nn.functional.silu(gates) * ups),
    ]


def components(x: torch.Tensor, form: Form) -> torch.Tensor:
    """(batch, n) -> (batch, form n), by definition."""
    if form is Form.SINGLES:
        return x
    a, b = x[:, ::2], x[:, 1::2]
    return torch.stack((7 * a, 5 * (a + b), 7 * b, 5 * (b - a)), -1).flatten(1)


def value_of(found: ActivationBytes) -> torch.Tensor:
    """The components that the bytes stand for, (batch, form n)."""
    rows = found.rows.cpu().view(torch.int8).double()
    value = rows[:, 0] + rows[:, 1] / 254 if found.parts == 2 else rows[:, 0]
    scales = found.scales.cpu().double().repeat_interleave(found.form << found.segment_bits, dim=1)
    return value * scales[:, : value.shape[1]]


def check_sources(columns: int, batch: int, dtype: torch.dtype, device: str) -> None:
    rotation = Rotation(in_features=columns, seed=1, group="g", most_block=2048)
    assert takes(rotation)
    for source, f in sources(columns, batch, dtype, device):
        wanted = rotation.rotate_input(f)
        for form in (Form.SINGLES, Form.PAIRS):
            found = rotate(source, rotation, halves=True, form=form)
            assert found.y is not None
            assert found.bytes is not None
            assert float((found.y.double().cpu() - wanted).norm() / wanted.norm()) < ROUNDING[dtype]
            part = components(wanted, form)
            error = float((value_of(found.bytes) - part).norm() / part.norm())
            assert error < (ROUNDING[dtype] if batch <= 4 else 1.2e-2)
            if source.kind == ADDED_NORM:
                assert found.sum is not None
                assert source.second is not None
                assert torch.equal(found.sum.cpu(), source.first.cpu() + source.second.cpu())
            again = rotate(source, rotation, halves=False, form=form)
            assert again.y is None
            assert again.bytes is not None
            assert torch.equal(again.bytes.rows, found.bytes.rows), "every run is the same"
            assert torch.equal(again.bytes.scales, found.bytes.scales)


def check_products(name: str, columns: int, batch: int, device: str) -> None:
    """Bytes with a scale for each block of 512 to 2,048 columns, and with one a row."""
    quantizer, rows = make_quantizer(name), 48
    generator = torch.Generator().manual_seed(columns)
    size = quantizer.storage_bytes(rows, columns) - 2 * rows
    codes = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    scale = (torch.rand(rows, generator=generator) + 0.5).half()
    weight = quantizer.decode(
        Encoded(out_features=rows, in_features=columns, tensors={"codes": codes, "row_scale": scale})
    )
    x = torch.randn(batch, columns, generator=generator)
    x[:, : columns // 2] *= 30  # blocks differ
    rotation = Rotation(in_features=columns, seed=1, group="g", most_block=2048)
    rotated = rotate(plain(x.half().to(device)), rotation, halves=True, form=form_of(quantizer))
    assert rotated.y is not None
    assert rotated.bytes is not None
    wanted = rotation.rotate_input(x.half().double()) @ weight.double().T
    for given, eight_bits in ((rotated.bytes, 1.3e-2), (rotated.y, 1.6e-2)):  # a scale for a block is finer
        y = torch.full((batch, rows), torch.nan, dtype=torch.float16, device=device)
        multiply(quantizer, None, codes.to(device), scale.to(device), given, y)
        error = float((y.double().cpu() - wanted).norm() / wanted.norm())
        assert error < (5e-4 if batch <= 4 else eight_bits)


@pytest.fixture
def libraries(library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, int]], None]:
    """Emulated, in an order of threads; the warps are those of products by table, others would be built for nothing."""

    def use(order: dict[str, int]) -> None:
        def load(name: str, device: torch.device, given: dict[str, int] | None = None) -> ctypes.CDLL:
            of_this = {key: value for key, value in order.items() if key != "WARPS" or name == "gemv_table"}
            return emulated(name, {**(given or {}), **of_this}, library_folder)

        for module in (block_rotation, gemv, gemv_table, activation_bytes):
            monkeypatch.setattr(module, "load", load)
        for module in (gemv, gemv_table):
            monkeypatch.setattr(module, "processors", lambda index: PROCESSORS)

    return use


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("order", [{}, {"BACKWARDS": 1}])
@pytest.mark.parametrize(("columns", "batch"), SHAPES)
def test_sources_on_this_cpu(
    columns: int, batch: int, order: dict[str, int], libraries: Callable[[dict[str, int]], None]
) -> None:
    libraries(order)
    for dtype in ROUNDING:
        check_sources(columns, batch, dtype, "cpu")


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("name", "columns", "batch", "order"),
    [
        ("trellis2-2", 2560, 1, {}),
        ("trellis2-2", 2560, 1, {"WARPS": 3, "BACKWARDS": 1}),
        ("trellis2-2.5", 4096, 6, {"WARPS": 3}),
        ("trellis2-3", 14336, 8, {"WARPS": 3}),
        ("trellis-2", 2560, 1, {}),
        ("trellis-3.25", 2560, 3, {}),
        ("trellis-4", 2560, 2, {"BACKWARDS": 1}),
        ("trellis-2.75", 4096, 6, {}),
        ("trellis-3", 6144, 13, {"BACKWARDS": 1}),
    ],
)
def test_products_of_bytes_on_this_cpu(
    name: str, columns: int, batch: int, order: dict[str, int], libraries: Callable[[dict[str, int]], None]
) -> None:
    libraries(order)
    check_products(name, columns, batch, "cpu")


def test_what_the_kernel_does_not_take_is_refused() -> None:
    assert not takes(Rotation(in_features=4096, seed=0, group=""))
    x = torch.zeros(1, 1024, dtype=torch.float16)
    with pytest.raises(ValueError, match="no kernel rotates"):
        rotate(plain(x), Rotation(in_features=4096, seed=0, group=""), halves=True, form=Form.NONE)
    with pytest.raises(ValueError, match="float16 or bfloat16"):
        rotate(plain(x.float()), Rotation(in_features=1024, seed=0, group=""), halves=True, form=Form.NONE)
    quantizer, bytes_of = make_quantizer("tcq-2"), ActivationBytes.like(x, Form.PAIRS, columns=1024, segment_bits=10)
    with pytest.raises(ValueError, match="not with bytes"):
        gemv_table.multiply(quantizer, None, x, x, bytes_of, torch.zeros(1, 16, dtype=torch.float16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and nvcc")
@pytest.mark.parametrize(("columns", "batch"), [*SHAPES, (4096, 1), (14336, 1), (14336, 4), (14336, 16), (28672, 2)])
def test_sources_on_a_gpu(columns: int, batch: int) -> None:
    for dtype in ROUNDING:
        check_sources(columns, batch, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and nvcc")
@pytest.mark.parametrize(
    "name",
    ["trellis2-1.5", "trellis2-2", "trellis2-3", "trellis2-4", "trellis-2", "trellis-3.25", "trellis-4", "trellis-6"],
)
@pytest.mark.parametrize(("columns", "batch"), [(4096, 1), (4096, 8), (14336, 1), (14336, 4), (14336, 8), (14336, 16)])
def test_products_of_bytes_on_a_gpu(name: str, columns: int, batch: int) -> None:
    check_products(name, columns, batch, "cuda")
