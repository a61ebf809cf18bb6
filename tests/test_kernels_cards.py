"""Cards other than Hopper's: what the kernels ask of one, and products where a block has less shared memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from checked_kernels import (
    check_products,
    check_weight,
    emulate,
    needs_gpu,
    needs_nvcc,
    with_random_table,
)
from emulated_kernels import library_folder, needs_gxx, on_cpu

from quantizers.kernels import build, encode, hadamard
from quantizers.kernels.build import KernelUnavailableError, architecture, card
from quantizers.rotation import Rotation
from quantizers.trellis.computed import native_state_bits

__all__ = ["library_folder", "on_cpu"]
AMPERE, ADA, HOPPER = card("80"), card("89"), card("90a")
NAMES = ("trellis-2", "trellis-3.25", "trellis-6", "trellis2-3", "tcq-3", "half-tcq-2.25", "vq-3", "nuq-4", "nuq-8")


@pytest.mark.parametrize(
    ("capability", "arch", "kilobytes"),
    [((8, 0), "80", 163), ((8, 6), "86", 99), ((8, 9), "89", 99), ((9, 0), "90a", 227), ((12, 0), "120a", 99)],
)
def test_what_is_built_for_a_card(
    capability: tuple[int, int], arch: str, kilobytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(build, "compiler", lambda: "nvcc")
    assert architecture.__wrapped__(torch.device("cuda", 0)) == arch
    command = build.compile_command(Path("a.cu"), Path("a.so"), arch, {"QUARTERS": 8})
    assert f"-gencode=arch=compute_{arch},code=sm_{arch}" in command
    given = [f"-DCAPABILITY={10 * capability[0] + capability[1]}", f"-DMOST_SHARED={kilobytes * 1024}", "-DQUARTERS=8"]
    assert [word for word in command if word.startswith("-D")] == given


def test_a_card_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(KernelUnavailableError, match=r"Tesla T4 has compute capability 7\.5; the kernels need 8\.0"):
        architecture.__wrapped__(torch.device("cuda", 0))


def test_what_does_not_fit_is_left_to_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search of low rates, and the rotation of long rows in one Hadamard block."""
    wide, long = (Rotation(in_features=width, seed=0, group="", most_block=0) for width in (14336, 28672))
    fitting = {}
    for kind in (ADA, AMPERE, HOPPER):
        for module in (encode, hadamard):
            monkeypatch.setattr(module, "most_shared", lambda device, kind=kind: kind["MOST_SHARED"])
        search = [encode.fits(quarters, native_state_bits(quarters), torch.device("cuda")) for quarters in (7, 8, 12)]
        fitting[kind["CAPABILITY"]] = [*search, *(hadamard.fits(each, torch.device("cuda")) for each in (wide, long))]
    assert fitting == {89: [False, True, True, True, False], 80: [True] * 5, 90: [True] * 5}


@needs_nvcc
@pytest.mark.parametrize(
    ("name", "defines"),
    [
        ("gemv_trellis", {"QUARTERS": 11}),
        ("gemv_table", {"INDEX_BITS": 6, "LEVELS": 0}),
        ("block_rotation", {"POWER_BITS": 11}),
    ],
)
def test_kernels_compile_for_ada(
    name: str, defines: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITPALETTE_CACHE", str(tmp_path))
    assert build.build(name, "89", defines).is_file()


@pytest.mark.parametrize("kind", [AMPERE, ADA], ids=["A100", "RTX"])
@pytest.mark.parametrize("name", NAMES)
@needs_gxx
@pytest.mark.usefixtures("on_cpu")
def test_products_on_a_smaller_card(
    name: str, kind: Mapping[str, int], library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(library_folder, monkeypatch, dict(kind))
    quantizer = with_random_table(name)
    check_products(quantizer, (16, 64), (9,))
    check_products(quantizer, (80, 1088), (1, 3))
    check_products(quantizer, (48, 320), (16,), (torch.bfloat16,))


@pytest.mark.parametrize(
    ("name", "rows", "columns", "batch"),
    [
        ("trellis-6", 16, 33024, 1),  # the longest row beside copies of the shortest kind
        ("trellis-2", 16, 14336, 16),  # a long row and a large batch: passes
        ("trellis-4", 13600, 64, 1),  # sums of more rows than a block has room for: more blocks
        ("tcq-3", 16, 14336, 4),  # windows of x
        ("tcq-3", 13600, 64, 1),
    ],
)
@needs_gxx
@pytest.mark.usefixtures("on_cpu")
def test_the_largest_shapes_on_the_smallest_card(
    name: str, rows: int, columns: int, batch: int, library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(library_folder, monkeypatch, dict(ADA), processors=1)
    check_products(with_random_table(name), (rows, columns), (batch,))


@pytest.mark.parametrize("name", ["trellis2-3", "tcq-3", "vq-3", "nuq-8"])
@needs_gxx
@pytest.mark.usefixtures("on_cpu")
def test_weights_on_a_smaller_card(name: str, library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(library_folder, monkeypatch, dict(ADA))
    check_weight(with_random_table(name), (80, 832), torch.float16)


@pytest.fixture
def as_ada(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The GPU at hand, with no more shared memory and no other launches than a card of compute capability 8.9 has."""
    monkeypatch.setattr(build, "card", lambda arch: ADA)
    build._loaded.cache_clear()
    yield
    build._loaded.cache_clear()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.usefixtures("as_ada")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_with_less_shared_memory(name: str) -> None:
    quantizer = with_random_table(name)
    for shape in ((576, 1536), (4096, 4096), (256, 14336)):
        check_products(quantizer, shape, (1, 3, 8, 16), (torch.float16, torch.bfloat16), device="cuda")
    check_weight(quantizer, (1040, 4096), torch.float16, device="cuda")
