"""What is timed, on this CPU: ways make the right products of the right bytes; tables and errors of the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from emulated_kernels import PROCESSORS, emulated, library_folder, needs_gxx, on_cpu

from analysis import kernel_speed
from quantizers import make_quantizer
from quantizers.base import Encoded
from quantizers.kernels import activation_bytes, bench, chain, dequantize, dequantize_pairs, gemv, gemv_table
from quantizers.kernels.bench import LAYERS
from quantizers.kernels.packed_product import has_kernel
from quantizers.kernels.products import Dense, Packed, PyTorchInt4, spacing
from quantizers.kernels.prompts import Decoded, Passes, crossovers

__all__ = ["library_folder", "on_cpu"]


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", ["trellis-2", "tcq-3"])
def test_a_packed_way_multiplies_with_the_codes_of_its_pool(
    name: str, library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns, quantizer = 32, 128, make_quantizer(name)
    for module in (gemv, gemv_table):
        monkeypatch.setattr(module, "load", lambda source, device, defines: emulated(source, defines, library_folder))
        monkeypatch.setattr(module, "processors", lambda index: PROCESSORS)
    monkeypatch.setattr(activation_bytes, "load", lambda source, device: emulated(source, {}, library_folder))
    pool = torch.randint(0, 256, (1 << 16,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    way = Packed(quantizer)
    size = way.weight_bytes(rows, columns)
    assert size == rows * columns * quantizer.bits_per_weight / 8
    x = torch.randn(2, columns, generator=torch.Generator().manual_seed(1)).half()
    for i, work in enumerate(way.prepared(pool, rows, columns, 3)):
        y = torch.full((2, rows), torch.nan, dtype=torch.float16)
        work(x, y)
        codes = pool[i * spacing(size) :][:size]
        scale = torch.full((rows,), columns**-0.5).half()
        encoded = Encoded(out_features=rows, in_features=columns, tensors={"codes": codes, "row_scale": scale})
        wanted = x.double() @ quantizer.decode(encoded).double().T
        assert ((y.double() - wanted).norm() / wanted.norm()).item() < 2e-3


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", ["trellis-2", "tcq-3", "half-tcq-2.25"])
@pytest.mark.parametrize("kind", [Passes, Decoded])
def test_ways_for_prompts_make_the_product(
    name: str, kind: type[Packed], library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 rows: a pass of 16 and one of 4."""

    def load(source: str, device: torch.device, defines: dict[str, int] | None = None) -> Any:
        return emulated(source, defines or {}, library_folder)

    for module in (gemv, gemv_table, activation_bytes, dequantize, dequantize_pairs):
        monkeypatch.setattr(module, "load", load)
    for module in (gemv, gemv_table, dequantize, dequantize_pairs):
        monkeypatch.setattr(module, "processors", lambda index: PROCESSORS)
    rows, columns, batch, quantizer = 32, 192, 20, make_quantizer(name)
    pool = torch.randint(0, 256, (1 << 16,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    way = kind(quantizer)
    assert not way.takes(rows, columns, 16)
    assert way.takes(rows, columns, batch)
    x = torch.randn(batch, columns, generator=torch.Generator().manual_seed(1)).half()
    y = torch.full((batch, rows), torch.nan, dtype=torch.float16)
    way.prepared(pool, rows, columns, 1)[0](x, y)
    scale = torch.full((rows,), columns**-0.5).half()
    tensors = {"codes": pool[: way.weight_bytes(rows, columns)], "row_scale": scale}
    weight = quantizer.decode(Encoded(out_features=rows, in_features=columns, tensors=tensors)).double()
    wanted = x.double() @ weight.T
    assert ((y.double() - wanted).norm() / wanted.norm()).item() < 1.3e-2  # 8-bit activations in the pass of 16


def test_where_decoding_pays() -> None:
    def row(kernel: str, batch: int, us: float, name: str = "trellis-2") -> dict[str, Any]:
        return {"model": "m", "layer": "l", "quantizer": name, "kernel": kernel, "batch": batch, "latency_us": us}

    rows = [row("passes", b, b) for b in (32, 64, 96)] + [row("dequantize+cublas", b, 50) for b in (32, 64, 96)]
    rows += [row("tensor-core", 1, 1.0)]
    rows += [row("passes", 32, 1, "tcq-2"), row("dequantize+cublas", 32, 2, "tcq-2")]
    found = crossovers(rows).set_index("quantizer").batch
    assert found["trellis-2"] == 64
    assert found.isna()["tcq-2"]
    assert crossovers([row("tensor-core", 1, 1.0)]).empty


def test_the_rivals_are_what_they_say() -> None:
    x, y = torch.randn(1, 256).half(), torch.full((1, 64), torch.nan, dtype=torch.float16)
    pool = torch.zeros(1, dtype=torch.uint8)
    Dense().prepared(pool, 64, 256, 1)[0](x, y)
    assert y.isfinite().all()
    assert Dense().weight_bytes(64, 256) == 2 * 64 * 256
    assert PyTorchInt4().weight_bytes(64, 256) == 64 * 256 // 2 + 64 * 2 * 4
    assert not PyTorchInt4().takes(64, 200, 1)


def test_a_chain_cycles_through_half_a_gigabyte_and_stays_in_the_pool() -> None:
    way = Packed(make_quantizer("trellis-2"))
    copies = chain.copies_of(way, (4096, 4096))
    assert copies * way.weight_bytes(4096, 4096) >= chain.CYCLED_BYTES
    for shape in [(4096, 4096), (57344, 8192), (576, 576)]:
        copies = chain.copies_of(way, shape, 1 << 30)
        assert copies >= 1
        assert copies * spacing(way.weight_bytes(*shape)) <= 1 << 30
        assert spacing(way.weight_bytes(*shape)) % chain.spacing(1) == 0


@pytest.mark.parametrize(("name", "wanted"), [("trellis-3", True), ("tcq-2", True), ("nuq-3", True), ("int-4", False)])
def test_which_quantizers_have_a_kernel(name: str, wanted: bool) -> None:
    assert has_kernel(make_quantizer(name)) is wanted


def test_codes_of_other_states_have_none() -> None:
    assert not has_kernel(make_quantizer("trellis-3", 12))
    with pytest.raises(ValueError, match=r"no quantizer of int-\* has a kernel"):
        bench.chosen(["int-*"])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, int], int]]:
    """What `bench` times where the device is a stand-in."""
    found: list[tuple[str, tuple[int, int], int]] = []

    def times(way: Any, pool: torch.Tensor, shape: tuple[int, int], batch: int) -> list[float]:
        found.append((way.quantizer, shape, batch))
        return [2.0, 1.0, 4.0]

    monkeypatch.setattr(bench, "here", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(bench, "build_all", lambda quantizers, device: None)
    monkeypatch.setattr(chain, "random_pool", lambda device: torch.zeros(16, dtype=torch.uint8))
    monkeypatch.setattr(chain, "read_limit", lambda pool: 3000.0)
    monkeypatch.setattr(chain, "environment", lambda device: {"gpu": {"name": "one", "clocks.sm": "1"}})
    monkeypatch.setattr(chain, "chain_microseconds", times)
    monkeypatch.setattr(bench, "copy_limit", lambda pool: 2000.0)
    return found


def test_a_run_that_was_cut_off_goes_on(
    tmp_path: Path, asked: list[tuple[str, tuple[int, int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--models", "llama-3.1-8b", "qwen3-8b", "--quantizers", "trellis-2", "nuq-3", "--batches", "1", "8"]
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    bench.main([*arguments, "--out", str(whole)])
    assert len(asked) == len(set(asked)) == 2 * 2 * 8, "q and qkv of both models are the same shapes"
    rows = json.loads(whole.read_text())["rows"]
    assert {(row["model"], row["layer"]) for row in rows} == {(m, n) for m in arguments[1:3] for n in LAYERS[m]}
    asked.clear()
    times = chain.chain_microseconds

    def cut_off(*of: Any) -> list[float]:
        if len(asked) == 7:
            raise KeyboardInterrupt
        return times(*of)

    monkeypatch.setattr(chain, "chain_microseconds", cut_off)
    with pytest.raises(KeyboardInterrupt):
        bench.main([*arguments, "--out", str(cut)])
    assert len(json.loads(cut.read_text())["rows"]) == 6, "saved after each layer and quantizer"
    monkeypatch.setattr(chain, "chain_microseconds", times)
    monkeypatch.setattr(chain, "environment", lambda device: {"gpu": {"name": "one", "clocks.sm": "2"}})
    bench.main([*arguments, "--out", str(cut)])
    assert len(asked) == 7 + 32 - 6
    assert json.loads(cut.read_text())["rows"] == rows
    monkeypatch.setattr(chain, "environment", lambda device: {"gpu": {"name": "another"}})
    with pytest.raises(SystemExit, match="give another --out"):
        bench.main([*arguments, "--out", str(cut)])


def test_the_command_writes_a_row_for_each_product(
    tmp_path: Path, asked: list[tuple[str, tuple[int, int], int]]
) -> None:
    arguments = ["--models", "smollm2-135m", "--quantizers", "trellis-2", "int-4", "--batches", "1", "17", "--rivals"]
    arguments += ["--prompts"]
    bench.main([*arguments, "--out", str(tmp_path / "kernels.json")])
    content = json.loads((tmp_path / "kernels.json").read_text())
    rows = pd.DataFrame(content["rows"])
    packed = rows[(rows.quantizer == "trellis-2") & (rows.kernel == "tensor-core")]
    assert set(packed.batch) == {1}, "a batch of 17 is no product of these kernels"
    assert set(rows[rows.kernel.isin(["passes", "dequantize+cublas"])].batch) == {17}
    assert {(each["layer"], each["batch"]) for each in content["crossovers"]} == {
        (n, None) for n in LAYERS["smollm2-135m"]
    }
    decoding = content["decoding"][0]
    assert decoding["gigabytes_per_s"] == pytest.approx((576 * 576 * 2.25 / 2e-6) / 1e9)
    assert decoding["fraction_of_copy"] == pytest.approx(decoding["gigabytes_per_s"] / 2000)
    assert set(rows[rows.quantizer == "fp16"].batch) == {1, 17}
    assert (576, 576) not in {shape for name, shape, _ in asked if name.startswith("int-4")}, (
        "576 is no multiple of 128"
    )
    first = packed.iloc[0]
    assert first.latency_us == 2.0
    assert first.gigabytes_per_s == pytest.approx(first.weight_bytes / 2e-6 / 1e9)
    assert first.fraction_of_read == pytest.approx(first.gigabytes_per_s / 3000)


def test_the_figure_draws_every_quantizer_under_the_roof() -> None:
    rows = [
        {"quantizer": name, "kernel": "tensor-core", "batch": batch, "latency_us": size / speed / 1e3,
         "weight_bytes": size, "gigabytes_per_s": speed}
        for name, speed in (("trellis-2", 1000.0), ("tcq-3", 2000.0))
        for size in (4_000_000, 30_000_000)
        for batch in (1, 8)
    ]  # fmt: skip
    drawn = kernel_speed.figure({"read_gigabytes_per_s": 3000.0, "rows": rows})
    lines = {line.get_label(): line for line in drawn.axes[0].lines}
    assert lines["tcq-3, tensor-core"].get_xdata().tolist() == [4.0, 30.0]
    assert lines["tcq-3, tensor-core"].get_ydata().tolist() == [2000.0, 2000.0]
    roof = lines["roof"].get_ydata()
    assert roof.max() == 3000.0
    assert (np.diff(roof) >= 0).all()
    with pytest.raises(ValueError, match="no row of batch 4"):
        kernel_speed.figure({"read_gigabytes_per_s": 3000.0, "rows": rows}, batch=4)
