"""Rows of packed codes by the dequantize kernels: on this CPU, emulated; on a GPU also inside a CUDA graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checked_kernels import emulate, needs_gpu, random_encoded
from emulated_kernels import library_folder, needs_gxx, on_cpu
from torch import nn

from quantizers import make_quantizer
from quantizers.embedding import QuantizedEmbedding
from quantizers.kernels import look_up
from quantizers.kernels.operators import unrotate
from quantizers.linear import QuantizedLinear
from quantizers.rotation import Rotation

__all__ = ["library_folder", "on_cpu"]
NAMES = ("trellis-3.25", "trellis2-2", "half-tcq-2.25", "tcq-3", "nuq-3", "vq-1.5")


def packed(name: str, rows: int, columns: int) -> QuantizedLinear:
    """Random codes."""
    quantizer = make_quantizer(name)
    encoded = random_encoded(quantizer, rows, columns)
    return QuantizedLinear(quantizer, encoded, Rotation(in_features=columns, seed=0, group="e", most_block=2048))


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_decodes_the_strips(name: str, library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are decoded together; the last strip of a matrix of 72 rows is half a strip, filled in tiles."""
    asked: list[torch.Size] = []

    def has_kernel(quantizer: str, bits: int, rows: int, weight: torch.Tensor) -> bool:
        asked.append(weight.shape)
        return True

    emulate(library_folder, monkeypatch, {})
    layer = packed(name, 72, 64)
    rows = torch.randint(0, 72, (150,), generator=torch.Generator().manual_seed(1))
    rows[:3] = torch.tensor([71, 0, 16])
    wanted = layer.rows(rows, torch.float32)
    monkeypatch.setattr(look_up, "has_dequantizer", has_kernel)
    found = layer.rows(rows, torch.float16)
    assert asked == [(128 * 16, 64), (22 * 16, 64)]
    assert torch.allclose(found.float(), wanted, atol=2**-9 * float(wanted.abs().max()))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [*NAMES, "int-4", "fp16"])
def test_a_gpu_gives_the_same_rows(name: str, dtype: torch.dtype) -> None:
    """By a kernel where there is one, by plain torch of others and in float32."""
    if name in NAMES:
        layer = packed(name, 1040, 4096)
    else:
        quantizer = make_quantizer(name)
        rotation = Rotation(in_features=4096, seed=0, group="e") if quantizer.rotated else None
        layer = QuantizedLinear(quantizer, quantizer.encode(torch.randn(1040, 4096)), rotation)
    rows = torch.randint(0, 1040, (130,), generator=torch.Generator().manual_seed(1))
    wanted = layer.rows(rows, torch.float32)
    found = layer.to("cuda").rows(rows.cuda(), dtype).float().cpu()
    rounding = {torch.float16: 2**-9, torch.bfloat16: 2**-6, torch.float32: 1e-5}[dtype]
    assert torch.allclose(found, wanted, atol=rounding * float(wanted.abs().max()))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_looks_up_other_tokens_than_it_was_captured_with(name: str) -> None:
    embedding = QuantizedEmbedding(packed(name, 1040, 4096), nn.Embedding(1040, 4096).half(), tied=False).cuda()
    tokens = torch.zeros(4, dtype=torch.int64, device="cuda")
    stream: Any = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        embedding(tokens)  # builds the kernels, and fills the caches of tables and signs
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            rows = embedding(tokens)
    tokens.copy_(torch.tensor([1039, 17, 0, 512]))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(rows, embedding(tokens))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("width", [4096, 14336, 576])
def test_a_gpu_turns_back(width: int) -> None:
    """By the kernel that turns, where H is symmetric; 576 is not."""
    rotation = Rotation(in_features=width, seed=3, group="e", most_block=2048)
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    for dtype, rounding in ((torch.float16, 2**-9), (torch.float32, 1e-5)):
        found = unrotate(x.cuda().to(dtype), rotation).float().cpu()
        assert torch.allclose(found, rotation.unrotate_weight(x.to(dtype).float()), atol=rounding * 5)
