"""The program for NVIDIA's checkers: it makes every result twice, and says where one differs or is incomplete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emulated_kernels import PROCESSORS, emulated, library_folder, needs_gxx, on_cpu

from quantizers import make_quantizer
from quantizers.kernels import activation_bytes, dequantize, each_once, gemv

__all__ = ["library_folder", "on_cpu"]
CPU = torch.device("cpu")


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
def test_products_and_decodings_are_made_whole(library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gemv, activation_bytes, dequantize):
        monkeypatch.setattr(
            module, "load", lambda name, device, defines=None: emulated(name, defines or {}, library_folder)
        )
    for module in (gemv, dequantize):
        monkeypatch.setattr(module, "processors", lambda index: PROCESSORS)
    works = list(each_once.of_codes(make_quantizer("trellis-2"), ((48, 576),), (1, 8), CPU))
    assert [shape for _, shape, _ in works] == [(48, 576), *[(1, 48)] * 3, *[(8, 48)] * 3]
    each_once.make_twice(works, CPU)


@pytest.mark.parametrize("wrong", [lambda y: y[1:].fill_(0), lambda y: y.normal_()], ids=["a part", "noise"])
def test_what_is_incomplete_or_differs_is_named(wrong: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="this one: two runs differ"):
        each_once.make_twice([("that", (2, 3), lambda y: y.fill_(1)), ("this one", (2, 3), wrong)], CPU)


def test_a_quantizer_without_a_kernel_is_refused() -> None:
    with pytest.raises(SystemExit, match="has a kernel"):
        each_once.main(["--quantizers", "fp16"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_few_on_a_gpu() -> None:
    each_once.main(["--few", "--quantizers", "trellis-2", "vq-2"])
