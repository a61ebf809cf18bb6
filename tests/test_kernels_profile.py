"""latency.csv as it is written: every set of layers once, rows kept, and a table that the solvers read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from transformers import Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

from alloc.latency import read_latency
from alloc.tables import read_tables
from quantizers.kernels import bench, chain, profile
from quantizers.kernels.fused_shapes import fused_shapes
from quantizers.kernels.rest_of_token import step, without_linears

SHAPES = {
    "q": (64, 64),
    "k": (32, 64),
    "v": (32, 64),
    "o": (64, 64),
    "gate": (128, 64),
    "up": (128, 64),
    "down": (64, 128),
}
GROUPS = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "o", "gate": "gate_up", "up": "gate_up", "down": "down"}


def layers(blocks: int = 2) -> pd.DataFrame:
    rows = [
        (f"model.layers.{b}.{name}_proj", *SHAPES[name], f"model.layers.{b}.{GROUPS[name]}", 1.0)
        for b in range(blocks)
        for name in SHAPES
    ]
    head = ("lm_head", 1000, 64, "lm_head", None)
    return pd.DataFrame([*rows, head], columns=["layer", "out_features", "in_features", "fusion_group", "sensitivity"])


def test_every_set_of_a_group_is_a_product_once() -> None:
    found = list(fused_shapes(layers()))
    assert [shape.members for shape in found] == [
        "q_proj", "k_proj", "v_proj", "q_proj+k_proj", "q_proj+v_proj", "k_proj+v_proj", "q_proj+k_proj+v_proj",
        "o_proj", "gate_proj", "up_proj", "gate_proj+up_proj", "down_proj",
    ]  # fmt: skip
    rows = {shape.members: (shape.out_features, shape.in_features) for shape in found}
    assert rows["q_proj+k_proj+v_proj"] == (128, 64)
    assert rows["down_proj"] == (64, 128)
    assert {shape.members for shape in fused_shapes(layers(), fusion=False)} == {f"{name}_proj" for name in SHAPES}


def test_two_shapes_of_one_name_are_two_products() -> None:
    frame = layers()
    frame.loc[frame.layer == "model.layers.1.o_proj", "out_features"] = 96
    assert [s.out_features for s in fused_shapes(frame) if s.members == "o_proj"] == [64, 96]
    frame.loc[frame.layer == "model.layers.1.k_proj", "in_features"] = 80
    with pytest.raises(ValueError, match=r"model\.layers\.1\.qkv differ in in_features"):
        list(fused_shapes(frame))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A device whose every product takes rows / 64 us; what was asked for."""
    asked: list[tuple[str, int]] = []

    def times(way: Any, pool: torch.Tensor, shape: tuple[int, int], batch: int) -> list[float]:
        asked.append((way.quantizer, batch))
        return [shape[0] / 64, shape[0] / 64 - 0.1, shape[0] / 64 + 0.3]

    monkeypatch.setattr(bench, "here", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(profile, "build_all", lambda quantizers, device: None)
    monkeypatch.setattr(profile, "rest_microseconds", lambda config, batch, context, device: [100.0 * batch])
    monkeypatch.setattr(chain, "random_pool", lambda device: torch.zeros(16, dtype=torch.uint8))
    monkeypatch.setattr(chain, "read_limit", lambda pool: 3000.0)
    monkeypatch.setattr(chain, "environment", lambda device: {})
    monkeypatch.setattr(chain, "model_microseconds", times)
    return asked


def test_a_table_goes_on_and_the_solvers_read_it(tmp_path: Path, timed: list[tuple[str, int]]) -> None:
    layers().to_csv(tmp_path / "layers.csv", index=False)
    given = ["--layers", str(tmp_path / "layers.csv"), "--out", str(tmp_path / "latency.csv"), "--config", "any"]
    profile.main([*given, "--quantizers", "trellis-2"])
    assert timed == [("trellis-2", 1)] * 6, "each shape once: 64, 32, 96, 128, 256 x 64 and 64 x 128"
    profile.main([*given, "--quantizers", "trellis-2", "tcq-3", "--batches", "1", "4", "--fp16"])
    assert len(timed) == 2 * 3 * 6, "what was there was not timed again"
    rows = pd.read_csv(tmp_path / "latency.csv")
    assert rows[rows.members == "constant"].latency_us.tolist() == [100.0, 400.0]
    assert rows[rows.members == "gate_proj+up_proj"].latency_us.unique().tolist() == [4.0]
    assert (tmp_path / "latency.csv.environment.json").exists()
    quantizers = (
        "quantizer,bits_per_weight,codebook_bytes,distortion\ntrellis-2,2,0,0.07\ntcq-3,3,0,0.02\nfp16,16,0,0\n"
    )
    (tmp_path / "quantizers.csv").write_text(quantizers)
    assert read_tables(tmp_path).latency is not None


def test_rows_are_timed_again_where_asked(tmp_path: Path, timed: list[tuple[str, int]]) -> None:
    layers().to_csv(tmp_path / "layers.csv", index=False)
    given = ["--layers", str(tmp_path / "layers.csv"), "--out", str(tmp_path / "latency.csv"), "--config", "any"]
    profile.main([*given, "--quantizers", "trellis-2", "tcq-3"])
    before, count = pd.read_csv(tmp_path / "latency.csv"), len(timed)
    halved = before.astype({"out_features": "Int64", "in_features": "Int64"}).assign(
        latency_us=before.latency_us / 2.1
    )  # as an update would find it
    halved.to_csv(tmp_path / "latency.csv", index=False)
    lines = set((tmp_path / "latency.csv").read_text().splitlines())
    profile.main([*given, "--quantizers", "trellis-2", "--again", "constant", "down_proj"])
    assert timed[count:] == [("trellis-2", 1)]
    gone = lines - set((tmp_path / "latency.csv").read_text().splitlines())
    assert {line.rpartition(",tensor-core")[0] or line.partition(",")[0] for line in gone} == {
        "constant",
        "down_proj,trellis-2",
    }, "all others are as they were"
    after = pd.read_csv(tmp_path / "latency.csv").set_index(["members", "quantizer"]).latency_us
    expected = before.fillna("").set_index(["members", "quantizer"]).latency_us
    assert after["down_proj", "trellis-2"] == expected["down_proj", "trellis-2"]
    assert after["down_proj", "tcq-3"] == pytest.approx(expected["down_proj", "tcq-3"] / 2.1)
    assert after["constant"].iloc[0] == expected["constant"].iloc[0]
    profile.main([*given, "--quantizers", "tcq-3", "--again", "down_proj", "--no-fusion"])
    assert len(pd.read_csv(tmp_path / "latency.csv")) == len(before), "what is not timed is not lost"
    with pytest.raises(SystemExit, match="no row of gate is there"):
        profile.main([*given, "--again", "gate"])
    with pytest.raises(SystemExit, match=r"no row of constant is there .* \(it takes --config\)"):
        profile.main([*given[:-2], "--again", "constant"])


def test_another_table_is_not_written_over(tmp_path: Path) -> None:
    layers().to_csv(tmp_path / "layers.csv", index=False)
    with pytest.raises(SystemExit, match="is no table of this command"):
        profile.main(["--layers", str(tmp_path / "layers.csv"), "--out", str(tmp_path / "layers.csv")])


@pytest.mark.parametrize("make", [LlamaConfig, Qwen2Config, Qwen3Config, Gemma3TextConfig])
def test_the_rest_of_a_token_has_no_linear_but_the_head(make: Callable[..., Any]) -> None:
    config = make(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=make is Qwen3Config,
    )  # fmt: skip
    device = torch.device("cpu")
    model = without_linears(config, 3, device, torch.float32)
    assert [type(module) for module in model.modules() if isinstance(module, nn.Linear)] == [nn.Linear]
    logits = step(model, config, 3, 16, device)()
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (3, 1, 64)
    assert logits.isfinite().all()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight  # type: ignore[operator]
    assert tied == config.tie_word_embeddings


def test_shipped_tables_are_read_by_the_allocator() -> None:
    shipped = sorted((Path(__file__).parent.parent / "conf" / "measured").glob("*.csv"))
    assert shipped
    for path in shipped:
        table = read_latency(path)
        units = {members for members, batch in table.rows if batch == 1}
        assert {("q_proj",), ("k_proj", "q_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)} <= units
        assert table.constant[1] > 0
        assert path.with_name(path.name + ".environment.json").is_file()
