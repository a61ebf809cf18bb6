"""CUDA kernels on this CPU: products equal those of the decoded weights, codes those of the CPU search.

`cuda_on_cpu/` runs them thread by thread; copies arrive late or at once, threads run forwards or backwards, so that a
missing wait or barrier shows. What it cannot show is speed, and what a GPU does with undefined behaviour."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from checked_kernels import check_products, emulate
from emulated_kernels import emulated, library_folder, needs_gxx, on_cpu

from quantizers import make_quantizer
from quantizers.kernels import encode
from quantizers.trellis.computed import CONSTANTS, DEVIATION, LARGEST, all_values, native_state_bits, shifts
from quantizers.trellis.mixed_viterbi import closest_symbols

__all__ = ["library_folder", "on_cpu"]
ORDERS = [{}, {"EARLY_COPIES": 1}, {"BACKWARDS": 1}]
pytestmark = [needs_gxx, pytest.mark.usefixtures("on_cpu")]


@pytest.mark.parametrize(("quarters", "order"), [(8, 0), (13, 0), (13, 1), (13, 2), (24, 0), (5, 0)])
@pytest.mark.parametrize("shape", [(16, 64), (48, 576), (80, 320)])
def test_products_of_trellis_codes(
    quarters: int, order: int, shape: tuple[int, int], library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(library_folder, monkeypatch, ORDERS[order])
    quantizer = make_quantizer(f"trellis-{quarters / 4:g}")
    check_products(quantizer, shape, (1, 3, 8, 13))
    check_products(quantizer, shape, (2,), (torch.bfloat16,))


def test_a_long_row_takes_several_passes(library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands of a batch of 16 and 14,336 columns do not fit in shared memory: the product is made in parts."""
    emulate(library_folder, monkeypatch, {})
    check_products(make_quantizer("trellis-2"), (16, 14336), (16,))


def test_the_sums_of_many_rows_leave_room_for_shorter_copies(
    library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head of 256,000 rows in segments of 512 columns: sums beside which the longest copies do not fit."""
    emulate(library_folder, monkeypatch, {}, processors=1)
    check_products(make_quantizer("trellis-4"), (13600, 64), (1,))


@pytest.mark.parametrize(("quarters", "order"), [(8, 0), (13, 0), (13, 2)])
def test_the_search_finds_the_codes_of_the_cpu_search(
    quarters: int, order: int, library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = emulated("encode_trellis", {"QUARTERS": quarters, "THREADS": 512, **ORDERS[order]}, library_folder)
    monkeypatch.setattr(encode, "load", lambda name, device: library)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    points = (torch.randn(2, 256, generator=torch.Generator().manual_seed(quarters)) * DEVIATION).round()
    points[1, ::2] = LARGEST
    points = points.clamp(-LARGEST, LARGEST).to(torch.int16)
    multiplier = CONSTANTS[quarters][0]
    values = all_values(native_state_bits(quarters), multiplier).numpy()
    expected = closest_symbols(points.numpy(), values, shifts(quarters), window=32)
    found = encode.search_paths(points, quarters, multiplier=multiplier, window=32)
    assert np.array_equal(found.numpy(), expected)


def test_the_emulation_sees_a_missing_wait_and_a_missing_barrier(library_folder: Path) -> None:
    """A kernel that reads its copies before it waits, and another's before a barrier, is found out."""
    source = """
    #include "async_copy.cuh"
    __global__ void shift(const uint32_t* from, uint32_t* to, int wait, int barrier) {
      __shared__ __align__(16) uint32_t room[4 * 64];
      copy16(room + 4 * threadIdx.x, from + 4 * threadIdx.x);
      commit_copies();
      if (wait) wait_copies<0>();
      if (barrier) __syncthreads();
      to[threadIdx.x] = room[4 * ((threadIdx.x + 1) % 64)];
    }
    extern "C" int shifted(const uint32_t* from, uint32_t* to, int wait, int barrier) {
      return emulated::launch(dim3(1), dim3(64), 0, [&] { shift(from, to, wait, barrier); });
    }
    """
    name = "shift_for_a_test"
    library = emulated(name, {}, library_folder, source)
    given = torch.arange(1, 257, dtype=torch.int32)
    wanted = given.view(64, 4)[:, 0].roll(-1)  # shared memory is zero at first, and kept from run to run
    right = []
    for wait, barrier in [(0, 1), (1, 0), (1, 1)]:
        found = torch.zeros(64, dtype=torch.int32)
        assert library.shifted(ctypes.c_void_p(given.data_ptr()), ctypes.c_void_p(found.data_ptr()), wait, barrier) == 0
        right.append(torch.equal(found, wanted))
    assert right == [False, False, True]
