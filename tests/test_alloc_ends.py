"""Allocation with embedding and head as layers: bytes once, the head's time once, what is excluded stays 16 bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_experiment_allocate import command
from test_experiment_vram import small

from alloc.budgets import Budgets
from alloc.fusion import NoOptionError
from alloc.problem import build_problem
from alloc.solution import Solution
from alloc.solvers import Exact
from alloc.tables import Tables, read_tables

EMBEDDING, DOWN, HEAD = "model.embed_tokens", "model.layers.0.mlp.down_proj", "lm_head"
LAYERS = """layer,out_features,in_features,fusion_group,sensitivity
model.embed_tokens,96,16,model.embed_tokens,0.5
model.layers.0.mlp.down_proj,16,32,down,2
lm_head,96,16,lm_head,1
"""
TIED = "".join(line for line in LAYERS.splitlines(keepends=True) if not line.startswith(EMBEDDING))
QUANTIZERS = "quantizer,bits_per_weight,codebook_bytes,distortion\na-2,2,0,0.1\nb-4,4,0,0.01\nfp16,16,0,0\n"
# the head of 16 bits takes 50 of the 150 us that a token takes besides its products
LATENCY = """members,quantizer,kernel,batch,out_features,in_features,latency_us
constant,,,1,,,100
lm_head,fp16,cublas,1,96,16,50
lm_head,b-4,t,1,96,16,13
lm_head,a-2,t,1,96,16,7
down_proj,a-2,t,1,16,32,2
down_proj,b-4,t,1,16,32,3
down_proj,fp16,cublas,1,16,32,9
"""
WITHIN = "".join(
    line for line in LATENCY.replace(",100\n", ",150\n").splitlines(keepends=True) if not line.startswith(HEAD)
)


def tables(folder: Path, layers: str = LAYERS, latency: str = LATENCY) -> Tables:
    folder.mkdir(exist_ok=True)
    for name, text in {"layers": layers, "quantizers": QUANTIZERS, "latency": latency}.items():
        (folder / f"{name}.csv").write_text(text)
    return read_tables(folder)


def solved(table: Tables, **options: object) -> Solution:
    budgets = Budgets(**options.pop("budgets"))  # type: ignore[arg-type]
    return Exact().solve(build_problem(table, budgets=budgets, **options))  # type: ignore[arg-type]


def test_bits_per_weight_are_of_all_layers_and_a_tied_weight_is_once(tmp_path: Path) -> None:
    for layers, weights in ((LAYERS, 512 + 2 * 96 * 16), (TIED, 512 + 96 * 16)):
        plan = solved(tables(tmp_path, layers), budgets={"bits_per_weight": 3.0})
        assert plan.budgets["memory_bytes"] == 3 * weights // 8
        assert set(plan.layers) == {line.split(",")[0] for line in layers.splitlines()[1:]}
        sizes = {name: (512 if name == DOWN else 1536) for name in plan.layers}
        rates = {"a-2": 2, "b-4": 4, "fp16": 16}
        assert plan.costs["memory_bytes"] == sum(
            sizes[name] * rates[choice.quantizer] // 8 for name, choice in plan.layers.items()
        )


def test_excluded_and_pinned_ends(tmp_path: Path) -> None:
    table = tables(tmp_path)
    plan = solved(table, budgets={"bits_per_weight": 2.0}, exclude=["lm_head"])
    assert HEAD not in plan.layers
    assert plan.costs["memory_bytes"] == 2 * (512 + 1536) // 8
    whole = solved(table, budgets={"memory_bytes": 3800}, exclude=["lm_head"], whole_model=True)
    assert whole.costs["memory_bytes"] - 2 * 1536 in (512, 640, 768), "the head in 16 bits, once"
    plan = solved(table, budgets={"bits_per_weight": 4.0}, pins=["lm_head:a-2", "*.embed_tokens:b-4"])
    assert (plan.layers[HEAD].quantizer, plan.layers[EMBEDDING].quantizer) == ("a-2", "b-4")


def test_the_head_is_timed_once_whether_it_is_a_layer_or_not(tmp_path: Path) -> None:
    """A quantized head costs its row; one that is excluded the row of 16 bits; the embedding nothing."""
    table = tables(tmp_path)
    fast = solved(table, budgets={"latency_us": 110})
    assert (fast.layers[HEAD].quantizer, fast.costs["latency_us"]) == ("a-2", 100 + 7 + 3)
    assert fast.layers[EMBEDDING].quantizer == "fp16"
    assert fast.layers[EMBEDDING].kernel is None
    slow = solved(table, budgets={"latency_us": 1000}, pins=[f"{HEAD}:b-4"])
    assert slow.costs["latency_us"] == 100 + 13 + 9
    excluded = solved(table, budgets={"latency_us": 1000}, exclude=[HEAD])
    assert excluded.costs["latency_us"] == 100 + 50 + 9
    other = solved(table, budgets={"latency_us": 155}, exclude=[HEAD], kernels=["t"])
    assert other.costs["latency_us"] == 100 + 50 + 3, "16 bits are of cublas, whatever kernels may be chosen"
    within = solved(tables(tmp_path / "within", latency=WITHIN), budgets={"latency_us": 1000}, exclude=[HEAD])
    assert within.costs["latency_us"] == 150 + 9, "the same head in the constant"
    with pytest.raises(NoOptionError, match="no row for lm_head"):
        solved(tables(tmp_path / "within", latency=WITHIN), budgets={"latency_us": 1000})
    tied = solved(tables(tmp_path / "tied", TIED), budgets={"latency_us": 110})
    assert tied.costs["latency_us"] == 100 + 7 + 3, "a tied weight has the time of the head"


def test_a_card_holds_the_head_as_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vram_bytes less cache and workspace: all rows of layers.csv, each once, whether allocated or not."""
    tables(tmp_path / "tables", TIED)
    small().save_pretrained(tmp_path / "tables")  # 3,840 bytes of cache at 10 tokens
    room = 512 * 4 // 8 + 1536 * 2 // 8  # down in 4 bits, the head in 2
    given = [f"tables={tmp_path / 'tables'}", "budget.context=10", "budget.workspace_bytes=1000"]
    plan = tmp_path / "plan"
    assert command(monkeypatch, *given, f"budget.vram_bytes={room + 4840}", f"out={plan}") == 0
    found = json.loads((plan / "allocation.json").read_text())
    assert found["costs"]["memory_bytes"] == found["budgets"]["memory_bytes"] == room
    assert {name: entry["quantizer"] for name, entry in found["layers"].items()} == {DOWN: "b-4", HEAD: "a-2"}
    fixed = 2 * 1536 + 512 * 2 // 8
    assert command(monkeypatch, *given, f"budget.vram_bytes={fixed + 4840}", "exclude=[lm_head]", f"out={plan}") == 0
    assert json.loads((plan / "allocation.json").read_text())["costs"]["memory_bytes"] == fixed
    assert command(monkeypatch, *given, f"budget.vram_bytes={fixed + 4839}", "exclude=[lm_head]", f"out={plan}") == 2
