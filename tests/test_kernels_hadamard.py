"""The rotation kernel against the rotation by plain torch in float64: its logic on this CPU, its numbers on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated_kernels import emulated, library_folder, needs_gxx, on_cpu

from quantizers.kernels import hadamard
from quantizers.kernels.hadamard import defines, rotate
from quantizers.rotation import Rotation

__all__ = ["library_folder", "on_cpu"]
REAL = [896, 1536, 2048, 4096, 4864, 8192, 12288, 14336, 28672]


def whole(width: int) -> Rotation:
    return Rotation(in_features=width, seed=0, group="")


def error(x: torch.Tensor, rotation: Rotation) -> float:
    """||kernel - definition|| / ||definition||; NaN where something was not written."""
    y = torch.full_like(x, torch.nan)
    rotate(x, y, rotation)
    wanted = rotation.rotate_input(x.double().cpu())
    return float((y.double().cpu() - wanted).norm() / wanted.norm())


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("order", [{}, {"BACKWARDS": 1}])
@pytest.mark.parametrize("width", [64, 1536, 4096, 4864, 14336])
def test_the_kernel_rotates_as_defined(
    width: int, order: dict[str, int], library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        hadamard, "load", lambda name, device, given: emulated(name, {**given, **order}, library_folder)
    )
    rotation = Rotation(in_features=width, seed=3, group="a")
    for dtype, rounding in ((torch.float16, 4e-4), (torch.bfloat16, 3e-3)):
        x = torch.randn(3, width, generator=torch.Generator().manual_seed(width)).to(dtype)
        assert error(x, rotation) < rounding


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
def test_several_blocks_a_row(library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A width that no Hadamard matrix has is rotated in parts, each with signs of its own."""
    monkeypatch.setattr(hadamard, "load", lambda name, device, given: emulated(name, given, library_folder))
    width = next(width for width in range(64, 4096, 64) if defines(whole(width)) and Rotation(
        in_features=width, seed=0, group="g").block < width)  # fmt: skip
    x = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).half()
    assert error(x, Rotation(in_features=width, seed=0, group="g")) < 4e-4


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("order", [{}, {"BACKWARDS": 1}])
@pytest.mark.parametrize(("width", "most_block"), [(1536, 256), (4864, 2048), (3584, 2048), (14336, 2048), (1344, 512)])
def test_several_limited_blocks_a_row(
    width: int, most_block: int, order: dict[str, int], library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        hadamard, "load", lambda name, device, given: emulated(name, {**given, **order}, library_folder)
    )
    rotation = Rotation(in_features=width, seed=3, group="a", most_block=most_block)
    assert rotation.block < width
    x = torch.randn(2, width, generator=torch.Generator().manual_seed(width)).half()
    assert error(x, rotation) < 4e-4


@pytest.mark.parametrize("width", REAL)
def test_widths_of_real_models_have_a_kernel(width: int) -> None:
    given = defines(whole(width))
    assert given is not None
    assert given["ORDER"] << given["POWER_BITS"] == width


def test_what_has_no_kernel_is_refused() -> None:
    assert defines(whole(7)) is None
    assert defines(whole(576)) is None, "4 x 12 x 12"
    assert defines(whole(16)) is None
    x = torch.zeros(1, 16, dtype=torch.float16)
    with pytest.raises(ValueError, match="no kernel rotates"):
        rotate(x, x.clone(), whole(16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and nvcc")
@pytest.mark.parametrize("width", REAL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_numbers_on_a_gpu(width: int, dtype: torch.dtype) -> None:
    rotation = Rotation(in_features=width, seed=1, group="b")
    for rows in (1, 3, 16):
        x = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(dtype).cuda()
        assert error(x, rotation) < (4e-4 if dtype == torch.float16 else 3e-3)
