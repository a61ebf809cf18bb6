r"""Speed of the trellis encoders beside what the machine can do: `python -m quantizers.trellis.bench --out FILE`.

Timed is the search alone, on Gaussian tiles in memory (the rest of an encode is a few percent). A search makes

    2^L x (steps + 2 window) / steps  state updates a step,     one or two weights a step, 4 operations an update

and the counted floor is that many updates at the rate of the registers (CPU: `quantizers.trellis.update_rate`, measured
in the same run; GPU: multiprocessors x clock x 64 lanes / 2, two instructions on either of two pipes). What remains
between is loads and stores of costs and back-pointers, the way back along the path, and waiting. On a CPU the wall time
holds what else runs on the machine; the processor time hardly does, and `idle_weights_per_second` is made from it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from quantizers.kernels.encode import search_paths
from quantizers.trellis.closest import gpu
from quantizers.trellis.computed import BLOCK, CONSTANTS, DEVIATION, LARGEST, all_values, native_state_bits, shifts
from quantizers.trellis.computed_trellis import WINDOW
from quantizers.trellis.mixed_viterbi import closest_symbols
from quantizers.trellis.part import closest_states, seam_window
from quantizers.trellis.states import gain, state_table, state_values
from quantizers.trellis.tiles import SIDE, STEPS
from quantizers.trellis.update_rate import OPERATIONS, updates_per_second

NATIVE = 0  # stands for the family's own number of state bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One timed search. `updates`: state updates a weight; `search` takes a number of tiles and gives what to time."""

    quantizer: str
    state_bits: int
    device: str
    integer: bool
    updates: float
    search: Callable[[int], Callable[[], object]]


def _source(tiles: int) -> torch.Tensor:
    return torch.randn(tiles, BLOCK, generator=torch.Generator().manual_seed(0))


def computed_cases(rate: int, state_bits: int, device: torch.device | None) -> Iterator[Case]:
    """`trellis` at a rate on the CPU and, where there is one that can, on the GPU."""
    quarters = 4 * rate
    L = state_bits or native_state_bits(quarters)
    multiplier, gain = CONSTANTS[quarters]

    def points(tiles: int) -> torch.Tensor:
        return (_source(tiles) * (DEVIATION * gain)).round().clamp(-LARGEST, LARGEST).to(torch.int16)

    def on_cpu(tiles: int) -> Callable[[], object]:
        x, values = points(tiles).numpy(), all_values(L, multiplier).numpy()
        return lambda: closest_symbols(x, values, shifts(quarters), window=WINDOW)

    def on_gpu(tiles: int) -> Callable[[], object]:
        x = points(tiles).to(device)

        def search() -> None:
            search_paths(x, quarters, multiplier=multiplier, window=WINDOW)
            torch.cuda.synchronize(device)

        return search

    updates = (1 << L) * (BLOCK + 2 * WINDOW) / BLOCK
    case = Case(quantizer=f"trellis-{rate}", state_bits=L, device="cpu", integer=True, updates=updates, search=on_cpu)
    yield case
    if device is not None and native_state_bits(quarters) == L:
        yield replace(case, device="cuda", search=on_gpu)


def published_cases(rate: int, state_bits: int) -> Iterator[Case]:
    """`tcq` at a rate and `half-tcq` a quarter of a bit above: half its columns at the rate, half at the next."""
    L = state_bits or 16
    tables = {k: state_table(k, L) for k in (2 * rate, 2 * rate + 1)}

    def prepared(parts: tuple[int, ...]) -> Callable[[int], Callable[[], object]]:
        def prepare(tiles: int) -> Callable[[], object]:
            source = _source(tiles // len(parts)).view(SIDE, -1)
            table = tables[max(parts)]
            values = {k: state_values(table, L) / gain(table, k, L) for k in parts}
            return lambda: [closest_states(source, values[k], k) for k in parts]

        return prepare

    for name, parts in ((f"tcq-{rate}", (2 * rate,)), (f"half-tcq-{rate + 0.25:g}", (2 * rate, 2 * rate + 1))):
        factor = sum((STEPS + 2 * seam_window(k, L)) / STEPS for k in parts) / len(parts)
        yield Case(
            quantizer=name, state_bits=L, device="cpu", integer=False, updates=(1 << L) / 2 * factor,
            search=prepared(parts),
        )  # fmt: skip


def cases(rates: Sequence[int], state_bits: Sequence[int], device: torch.device | None) -> list[Case]:
    """All searches asked for, each once. state_bits: NATIVE, 0, for the family's own."""
    found: dict[tuple[str, int, str], Case] = {}
    for rate in rates:
        for L in state_bits:
            for case in [*computed_cases(rate, L, device), *published_cases(rate, L)]:
                found.setdefault((case.quantizer, case.state_bits, case.device), case)
    return list(found.values())


def measure(case: Case, *, work: float, repeats: int, rates: dict[str, float]) -> dict[str, Any]:
    """A row: `work` state updates a repeat; rates: updates a second in registers, of `integer`, `floating`, `cuda`."""
    groups = numba.get_num_threads() * 2 * SIDE if case.device == "cpu" else 2 * SIDE
    tiles = -(-int(work / case.updates / BLOCK) // groups) * groups  # whole groups of lanes for every thread
    weights = tiles * BLOCK
    search = case.search(tiles)
    search()
    wall, processor = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        search()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    low, median, high = np.quantile(wall, [0.25, 0.5, 0.75])
    rate = rates["cuda" if case.device == "cuda" else "integer" if case.integer else "floating"]
    idle = numba.get_num_threads() * weights / min(processor) if case.device == "cpu" else weights / min(wall)
    return {
        "quantizer": case.quantizer,
        "state_bits": case.state_bits,
        "device": case.device,
        "weights": weights,
        "repeats": repeats,
        "seconds_median": float(median),
        "seconds_least": min(wall),
        "spread": float((high - low) / median),
        "weights_per_second": weights / float(median),
        "idle_weights_per_second": idle,
        "updates_per_weight": case.updates,
        "operations_per_update": OPERATIONS,
        "updates_per_second_in_registers": rate,
        "floor_weights_per_second": rate / case.updates,
        "fraction_of_floor": idle * case.updates / rate,
    }


def gpu_clock_hz() -> float:
    """The largest clock of the multiprocessors, as the driver says it."""
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]) * 1e6


def environment(device: torch.device | None) -> dict[str, Any]:
    """What the numbers depend on, with the load of the machine at the start."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "cpu": models[0] if models else platform.processor(),
        "threads": numba.get_num_threads(),
        "load": os.getloadavg()[0],
        "gpu": None if device is None else torch.cuda.get_device_name(device),
    }


def benchmark(
    rates: Sequence[int], state_bits: Sequence[int], *, work: float, repeats: int,
    devices: Sequence[str] = ("cpu", "cuda"),
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """{"environment": .., "rows": [..]}, of the searches on `devices`. ValueError on a rate or a number of state bits
    that has no encoder, or where nothing is left to time."""
    if not set(rates) <= set(range(2, 5)):
        raise ValueError(f"rates are 2, 3 and 4, not {list(rates)}")
    if any(L != NATIVE and not 8 <= L <= 16 for L in state_bits):
        raise ValueError(f"state_bits are 8 to 16, or {NATIVE} for the family's own, not {list(state_bits)}")
    if repeats < 1 or not work > 0:
        raise ValueError(f"repeats and work are positive, not {repeats} and {work}")
    device = gpu()
    found = environment(device)
    speeds = {"integer": updates_per_second(integer=True), "floating": updates_per_second(integer=False)}
    if device is not None:
        speeds["cuda"] = torch.cuda.get_device_properties(device).multi_processor_count * gpu_clock_hz() * 64 / 2
    rows: list[dict[str, Any]] = []
    chosen = [case for case in cases(rates, state_bits, device) if case.device in devices]
    if not chosen:
        raise ValueError(
            f"nothing to time on {', '.join(devices)} at {list(rates)} bits, {list(state_bits)} state bits"
        )
    for case in chosen:
        if progress is not None:
            progress(len(rows), len(chosen), f"{case.quantizer}, L = {case.state_bits}, {case.device}")
        scale = 16 if case.device == "cuda" else 1
        rows.append(measure(case, work=work * scale, repeats=repeats, rates=speeds))
    if progress is not None:
        progress(len(chosen), len(chosen), "")
    return {"environment": found, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time and write JSON."""
    parser = argparse.ArgumentParser(description="time the trellis encoders against what the machine can do")
    parser.add_argument("--rates", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--state-bits", type=int, nargs="*", default=[12, 16, NATIVE], help="0: the family's own")
    parser.add_argument("--work", type=float, default=1e10, help="state updates of a repeat on a CPU; 16 x on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--devices", nargs="*", default=["cpu", "cuda"], choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args(arguments)
    found = benchmark(options.rates, options.state_bits, work=options.work, repeats=options.repeats,
                      devices=options.devices)  # fmt: skip
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
