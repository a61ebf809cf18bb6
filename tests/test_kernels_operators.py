"""The product operator: the reference for every quantizer, torch's own checks, and when a kernel takes over."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from quantizers import FAMILIES, make_quantizer
from quantizers.base import Encoded, Quantizer
from quantizers.kernels import operators
from quantizers.kernels.build import KernelUnavailableError
from quantizers.kernels.operators import has_dequantizer, has_kernel, rotate
from quantizers.rotation import Rotation

ONE_EACH = [next(iter(family.members)) for family in FAMILIES]


def layer(name: str, rows: int = 48, columns: int = 64) -> tuple[Quantizer, Encoded]:
    quantizer = make_quantizer(name, 8) if "tcq" in name or name.startswith("trellis") else make_quantizer(name)
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))
    return quantizer, quantizer.encode(weight)


def arguments(quantizer: Quantizer, encoded: Encoded, x: torch.Tensor) -> tuple[Any, ...]:
    keys, tensors = zip(*encoded.tensors.items(), strict=True)
    state_bits = int(quantizer.settings().get("state_bits", 0))
    return x, list(tensors), ",".join(keys), quantizer.name, state_bits, encoded.out_features, quantizer.codebook()


def product(x: torch.Tensor, encoded: Encoded, quantizer: Quantizer) -> torch.Tensor:
    y: torch.Tensor = torch.ops.bitpalette.product(*arguments(quantizer, encoded, x))
    return y


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_that_of_the_decoded_weight(name: str, dtype: torch.dtype) -> None:
    quantizer, encoded = layer(name)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(4)).to(dtype)
    assert torch.equal(product(x, encoded, quantizer), x @ quantizer.decode(encoded).to(dtype).T)


@pytest.mark.parametrize("name", ["trellis-2.25", "tcq-2", "nuq-3", "nvfp4"])
def test_torch_accepts_the_operator(name: str) -> None:
    quantizer, encoded = layer(name)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    torch.library.opcheck(torch.ops.bitpalette.product.default, arguments(quantizer, encoded, x))


def test_the_gradient_of_the_input_is_that_of_the_decoded_weight() -> None:
    quantizer, encoded = layer("nuq-3")
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(8), requires_grad=True)
    along = torch.randn(2, 48, generator=torch.Generator().manual_seed(9))
    (product(x, encoded, quantizer) * along).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, along @ quantizer.decode(encoded))


def test_the_rotation_is_an_operator_with_its_gradient() -> None:
    rotation = Rotation(in_features=64, seed=2, group="model.layers.0.mlp")
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(10), requires_grad=True)
    assert torch.equal(rotate(x, rotation), rotation.rotate_input(x))
    torch.library.opcheck(torch.ops.bitpalette.rotate.default, (x, 2, "model.layers.0.mlp", 0, False))
    along = torch.randn(3, 64, generator=torch.Generator().manual_seed(11))
    (rotate(x, rotation) * along).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, (along.double() @ rotation.matrix()).float(), atol=1e-5)


def test_it_stands_in_a_compiled_graph_without_a_break() -> None:
    quantizer, encoded = layer("trellis-2.25")
    given = arguments(quantizer, encoded, torch.empty(0))[1:]

    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * torch.ops.bitpalette.product(x + 1, *given)

    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(6))
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), twice(x))


def test_a_table_of_the_checkpoint_is_used() -> None:
    quantizer, encoded = layer("nuq-2")
    table = quantizer.codebook()
    assert table is not None
    own = quantizer.with_codebook(2 * table)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(7))
    assert torch.equal(product(x, encoded, own), 2 * product(x, encoded, quantizer))


class OnGpu:
    """Shape, dtype and device of a tensor on a GPU, which the rule for kernels asks for."""

    is_cuda, device = True, torch.device("cuda", 0)

    def __init__(self, batch: int, columns: int, dtype: torch.dtype = torch.float16) -> None:
        self.shape, self.dtype = (batch, columns), dtype


@pytest.mark.parametrize(
    ("name", "state_bits", "rows", "x", "wanted"),
    [
        ("trellis-3", 17, 4096, OnGpu(1, 4096), True),
        ("trellis-2", 16, 16, OnGpu(16, 64, torch.bfloat16), True),
        ("trellis-3", 12, 4096, OnGpu(1, 4096), False),  # codes of other states
        ("trellis-3", 17, 1024, OnGpu(17, 4096), False),  # passes of 16 read a small matrix again and again
        ("trellis-3", 17, 4096, OnGpu(32, 4096), True),
        ("trellis-3", 17, 4096, OnGpu(33, 4096), False),
        ("tcq-3", 16, 28672, OnGpu(64, 4096), True),
        ("tcq-3", 16, 28672, OnGpu(65, 4096), False),
        ("tcq-3", 16, 4096, OnGpu(33, 14336), False),
        ("trellis-3", 17, 4096, OnGpu(1, 4096, torch.float32), False),
        ("trellis-3", 17, 4100, OnGpu(1, 4096), False),
        ("trellis-3", 17, 4096, OnGpu(1, 4064), False),
        ("trellis-3", 17, 4096, OnGpu(1, 33088), False),
        ("tcq-3", 16, 4096, OnGpu(8, 4096), True),
        ("nuq-3", 0, 4096, OnGpu(1, 4096), True),
        ("int-4", 0, 4096, OnGpu(1, 4096), False),
    ],
)
def test_when_a_kernel_makes_it(
    name: str, state_bits: int, rows: int, x: Any, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "_has_kernels", lambda device: True)
    assert has_kernel(name, state_bits, rows, x) is wanted
    monkeypatch.setattr(operators, "_has_kernels", lambda device: False)
    assert not has_kernel(name, state_bits, rows, x)
    assert not has_dequantizer(name, state_bits, rows, x)


def test_large_batches_take_the_dequantized_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "_has_kernels", lambda device: True)
    x: Any = OnGpu(512, 4096)
    assert not has_kernel("trellis-3", 17, 4096, x)
    assert has_dequantizer("trellis-3", 17, 4096, x)
    assert not has_dequantizer("trellis-3", 12, 4096, x), "codes of other states"
    assert has_dequantizer("tcq-3", 16, 4096, x)
    assert not has_dequantizer("nvfp4", 0, 4096, x)
    assert not has_dequantizer("trellis-3", 17, 4100, x)


def test_without_a_compiler_the_reference_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(device: torch.device) -> None:
        raise KernelUnavailableError("no nvcc: put it on PATH")

    monkeypatch.setattr(operators, "usable", none)
    operators._has_kernels.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not has_kernel("trellis-3", 17, 4096, OnGpu(1, 4096))  # type: ignore[arg-type]
        assert not has_kernel("trellis-3", 17, 4096, OnGpu(1, 4096))  # type: ignore[arg-type]
    operators._has_kernels.cache_clear()
    assert [record.message.split(":")[0] for record in caplog.records] == ["no nvcc"]
