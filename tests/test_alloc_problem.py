"""Tables and budgets become a problem: storage to the byte, options by definition, optional tables first."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from alloc_instances import random_instance

from alloc.budgets import uniform_bytes
from alloc.problem import Budgets, build_problem
from alloc.solvers import Exact, Uniform
from alloc.tables import Tables, read_tables

LAYERS = """layer,out_features,in_features,fusion_group,sensitivity,note
model.embed_tokens,50,7,embed,,kept
model.layers.0.attn.q_proj,5,7,qkv,1.5,x
model.layers.0.attn.k_proj,3,7,qkv,0.5,x
model.layers.0.mlp.down_proj,7,9,down,2,x
"""
QUANTIZERS = """quantizer,bits_per_weight,codebook_bytes,distortion,bytes_per_row
a-1.1,1.1,3,0.3,2
b-4,4,0,0.01,0
fp16,16,0,0,0
"""


def folder(path: Path, **tables: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in {"layers": LAYERS, "quantizers": QUANTIZERS, **tables}.items():
        (path / f"{name}.csv").write_text(text)
    return path


def tables(path: Path, **extra: str) -> Tables:
    return read_tables(folder(path, **extra))


def test_storage_is_exact_where_the_rate_is_no_binary_fraction(tmp_path: Path) -> None:
    table = tables(tmp_path)
    for at in range(len(table.layers)):
        out, into = int(table.out_features[at]), int(table.in_features[at])
        assert table.storage_bytes[at, 0] == math.ceil(Fraction(11, 10) * out * into / 8) + 2 * out + 3
        assert table.storage_bytes[at, 2] == 2 * out * into
    big = LAYERS.replace("5,7,qkv", f"{2**20},{2**20},big")
    rate = QUANTIZERS.replace("1.1,3", "1.0000000000001,3")
    table = tables(tmp_path, layers=big, quantizers=rate)
    assert table.storage_bytes[1, 0] == math.ceil(Fraction("1.0000000000001") * 2**40 / 8) + 2 * 2**20 + 3


def test_optional_tables_take_precedence(tmp_path: Path) -> None:
    k = "model.layers.0.attn.k_proj"
    table = tables(
        tmp_path,
        storage=f"layer,quantizer,bytes\n{k},b-4,999\n",
        distortion=f"layer,quantizer,distortion\n{k},b-4,0.5\nmodel.layers.0.attn.q_proj,b-4,0.25\n",
        loss=f"layer,quantizer,loss\n{k},b-4,-0.125\n",
        costs=f"layer,quantizer,energy\n{k},b-4,7.5\n",
    )
    assert table.storage_bytes[2, 1] == 999
    assert table.loss[2, 1] == -0.125
    assert table.loss[1, 1] == 1.5 * 0.25
    assert table.loss[3, 1] == 2 * 0.01
    assert table.costs["energy"][2, 1] == 7.5
    assert np.isnan(table.costs["energy"]).sum() == table.loss.size - 1
    assert set(table.hashes) == {
        "layers.csv",
        "quantizers.csv",
        "storage.csv",
        "distortion.csv",
        "loss.csv",
        "costs.csv",
    }


def test_budgets_in_bytes(tmp_path: Path) -> None:
    table = tables(tmp_path)
    params = 35 + 21 + 63
    outside = 2 * 50 * 7

    def limit(budgets: Budgets, **options: bool) -> int:
        return int(build_problem(table, budgets=budgets, **options).scope.limits["memory_bytes"])

    assert limit(Budgets(bits_per_weight=6.6)) == math.floor(Fraction(66, 10) * params / 8)
    assert limit(Budgets(bits_per_weight=6.6), whole_model=True) == math.floor(Fraction(66, 10) * params / 8) + outside
    assert limit(Budgets(memory_bytes=120, bits_per_weight=9.0)) == 120
    exact = sum(math.ceil(Fraction(4 * n, 8)) for n in (35, 21, 63))
    assert limit(Budgets(uniform="b-4")) == exact == uniform_bytes(table, "b-4")
    assert uniform_bytes(table, "b-4", whole_model=True) == exact + outside
    assert Uniform().solve(build_problem(table, budgets=Budgets(uniform="b-4"))).costs["memory_bytes"] == exact


def test_whole_model_counts_what_is_not_allocated(tmp_path: Path) -> None:
    table = tables(tmp_path)
    part = Exact().solve(build_problem(table, budgets=Budgets(bits_per_weight=5.0)))
    whole = Exact().solve(build_problem(table, budgets=Budgets(bits_per_weight=5.0), whole_model=True))
    assert whole.layers == part.layers
    assert whole.costs["memory_bytes"] == part.costs["memory_bytes"] + 2 * 50 * 7
    assert "model.embed_tokens" not in whole.layers


def test_pins_and_exclusions(tmp_path: Path) -> None:
    table = tables(tmp_path)
    problem = build_problem(
        table,
        budgets=Budgets(bits_per_weight=16.0),
        members=["b-*"],
        pins=["*.down_proj:a-1.1"],
        exclude=["*.k_proj"],
    )
    solution = Exact().solve(problem)
    given = {name.rsplit(".", 1)[-1]: choice.quantizer for name, choice in solution.layers.items()}
    assert given == {"q_proj": "b-4", "down_proj": "a-1.1"}
    assert solution.budgets["memory_bytes"] == 16 * (35 + 63) // 8


def test_latency_of_fused_blocks_is_the_tables(tmp_path: Path) -> None:
    rows = """members,quantizer,kernel,batch,latency_us
constant,,,1,10.5
q_proj,b-4,fast,1,4.0
k_proj,b-4,fast,1,3.0
k_proj+q_proj,b-4,fast,1,5.0
q_proj,a-1.1,fast,1,1.0
k_proj,a-1.1,slow,1,1.0
down_proj,b-4,fast,1,2.0
"""
    table = tables(tmp_path, latency=rows)
    solution = Exact().solve(build_problem(table, budgets=Budgets(latency_us=17.5)))
    assert solution.costs["latency_us"] == 17.5
    q, k = (solution.layers[f"model.layers.0.attn.{part}_proj"] for part in "qk")
    assert (q.quantizer, q.kernel, q.fused_with) == ("b-4", "fast", ("model.layers.0.attn.k_proj",))
    assert k.fused_with == ("model.layers.0.attn.q_proj",)
    alone = Exact().solve(build_problem(table, budgets=Budgets(latency_us=17.5), fusion=False))
    assert all(not choice.fused_with for choice in alone.layers.values())
    assert alone.costs["latency_us"] <= 17.5
    speed = build_problem(table, budgets=Budgets(tokens_per_second=1e6 / 17.5))
    assert float(speed.scope.limits["latency_us"]) == pytest.approx(17.5, rel=1e-12)
    with pytest.raises(ValueError, match="q_proj at batch 1, kernels slow"):
        build_problem(table, budgets=Budgets(latency_us=17.5), kernels=["slow"])


def test_a_decimal_limit_is_met_to_the_last_digit(tmp_path: Path) -> None:
    """0.1 + 0.2 is 0.3 in the table's decimals, though not in binary."""
    rows = "members,quantizer,kernel,batch,latency_us\nq_proj,b-4,t,1,0.1\nk_proj,b-4,t,1,0.2\ndown_proj,b-4,t,1,0.3\n"
    table = tables(tmp_path, latency=rows)
    assert Exact().solve(build_problem(table, budgets=Budgets(latency_us=0.6))).costs["latency_us"] == 0.6
    with pytest.raises(ValueError, match=r"latency_us=0\.6 .*smallest"):
        build_problem(table, budgets=Budgets(latency_us=0.5999999999))


def test_a_row_with_a_shape_holds_for_that_shape(tmp_path: Path) -> None:
    layers = LAYERS + "model.layers.1.mlp.down_proj,9,9,down1,1,x\n"
    rows = """members,quantizer,kernel,batch,latency_us,out_features,in_features
q_proj,b-4,t,1,1,,
k_proj,b-4,t,1,1,,
down_proj,b-4,t,1,5,7,9
down_proj,b-4,t,1,7,9,9
"""
    table = tables(tmp_path, layers=layers, latency=rows)
    assert Exact().solve(build_problem(table, budgets=Budgets(latency_us=99))).costs["latency_us"] == 14
    bare = rows.replace("5,7,9", "5,,")
    with pytest.raises(ValueError, match="down_proj"):
        build_problem(tables(tmp_path, layers=layers, latency=bare), budgets=Budgets(latency_us=99))


def test_an_embedding_costs_no_time(tmp_path: Path) -> None:
    layers = LAYERS.replace("embed,,kept", "embed,0.5,kept")
    rows = "members,quantizer,kernel,batch,latency_us\nq_proj,b-4,t,1,1\nk_proj,b-4,t,1,1\ndown_proj,b-4,t,1,1\n"
    solution = Exact().solve(
        build_problem(tables(tmp_path, layers=layers, latency=rows), budgets=Budgets(latency_us=3))
    )
    assert solution.costs["latency_us"] == 3
    assert solution.layers["model.embed_tokens"].quantizer == "fp16"


def test_options_are_the_undominated_ones_of_the_definition(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        instance = random_instance(rng, groups=1, widest=3, quantizers=3, latency=True)
        problem = build_problem(
            read_tables(instance.write(tmp_path)), budgets=Budgets(memory_bytes=10**6, latency_us=1e6)
        )
        every = instance.option_table(latency=True)[0][:, :3].round(9)
        kept = np.stack([problem.loss, problem.costs[0], problem.costs[1] / 10.0 ** (problem.units[1].decimals - 2)], 1)
        for option in kept.round(9):
            assert (np.abs(every - option).max(axis=1) < 1e-8).any()
        for option in every:
            assert (kept <= option + 1e-8).all(axis=1).any()
