"""Plans of a step: every way to write one, and what is said of a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from step_models import CONFIGS

from quantizers.kernels.random_model import block_layers
from quantizers.kernels.random_plan import MIXED, read_plan

LAYERS = block_layers(CONFIGS["llama"]())
QKV = ("q_proj", "k_proj", "v_proj")


def leaves(units: list[tuple[str, ...]], block: int) -> set[tuple[str, ...]]:
    return {tuple(n.rpartition(".")[2] for n in unit) for unit in units if f".{block}." in unit[0]}


def written(folder: Path, text: str) -> str:
    (folder / "plan.csv").write_text(text)
    return str(folder / "plan.csv")


def test_a_name_is_every_layer_fused_or_not() -> None:
    fused, unfused = read_plan("trellis-3.25", LAYERS), read_plan("trellis-3.25", LAYERS, fused=False)
    assert leaves(fused.units, 1) == {QKV, ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)}
    assert len(unfused.units) == len(LAYERS) == 14
    assert {c.quantizer for c in fused.choices.values()} == {"trellis-3.25"}
    assert read_plan("trellis-3.25:unfused", LAYERS, fused=True) == unfused
    assert not read_plan("fp16", LAYERS).rotates
    assert fused.rotates


def test_members_hold_for_every_block_but_those_with_rows_of_their_own(tmp_path: Path) -> None:
    text = (
        "members,quantizer,block\nv_proj+q_proj,trellis-3,\nk_proj,tcq-2,\no_proj,fp16,\ngate_proj+up_proj,trellis-4,\n"
        "down_proj,trellis-5,\ndown_proj,trellis-2,1\n"
    )
    plan = read_plan(written(tmp_path, text), LAYERS)
    expected = {("q_proj", "v_proj"), ("k_proj",), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)}
    assert leaves(plan.units, 0) == leaves(plan.units, 1) == expected
    assert plan.choices["model.layers.0.mlp.down_proj"].quantizer == "trellis-5"
    assert plan.choices["model.layers.1.mlp.down_proj"].quantizer == "trellis-2"
    assert [q.name for q in plan.quantizers] == ["trellis-3", "tcq-2", "trellis-4", "trellis-5", "trellis-2"]


def test_a_unit_is_a_label_of_rows_of_one_block(tmp_path: Path) -> None:
    rows = LAYERS[["layer"]].assign(quantizer="trellis-3", unit="")
    rows.loc[rows.layer.str.contains("[qk]_proj"), "unit"] = "a"
    plan = read_plan(written(tmp_path, rows.to_csv(index=False)), LAYERS)
    assert ("q_proj", "k_proj") in leaves(plan.units, 0) & leaves(plan.units, 1)
    assert len(plan.units) == 12


def test_an_allocation_is_a_plan(tmp_path: Path) -> None:
    plan = read_plan("mixed-5", LAYERS)
    layers = {
        n: {"quantizer": c.quantizer, "kernel": None, "fused_with": c.fused_with} for n, c in plan.choices.items()
    }
    path = tmp_path / "best" / "allocation.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"layers": layers}))
    read = read_plan(str(path), LAYERS)
    assert (read.name, read.choices) == ("best", plan.choices)


def test_drawn_plans_differ_by_their_seed_alone() -> None:
    plans = [read_plan(f"mixed-{seed}", LAYERS) for seed in (1, 2, 3, 1)]
    assert plans[0] == plans[3]
    assert len({str(plan.choices) for plan in plans}) == 3
    assert {choice.quantizer for plan in plans for choice in plan.choices.values()} <= set(MIXED)
    assert any(len(unit) > 1 for plan in plans for unit in plan.units)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trellis-99", "no quantizer is named 'trellis-99'"),
        ("trellis-3:whole", "endings are :fused and :unfused"),
        ("int-4", "no kernel makes products with int-4"),
        ("absent.csv", "no plan is at absent.csv"),
    ],
)
def test_a_wrong_name_is_said(text: str, said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        read_plan(text, LAYERS)


ALL = "o_proj,trellis-3\ngate_proj,trellis-3\nup_proj,trellis-3\ndown_proj,trellis-3\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layer,bits\nx,3\n", "a plan has `quantizer` and one of `layer` and `members`"),
        (f"members,quantizer\nq_proj,trellis-3\nk_proj,trellis-3\n{ALL}", r"says nothing of model\.layers\.0.*v_proj"),
        (f"members,quantizer\nq_proj+q_proj+k_proj+v_proj,trellis-3\n{ALL}", "q_proj has two rows"),
        (f"members,quantizer\nq_proj+w_proj,trellis-3\n{ALL}", "a block has no layer 'w_proj'"),
        ("members,quantizer,block\nq_proj,trellis-3,7\n", "no block '7'; they are 0 to 1"),
        ("layer,quantizer\nmodel.layers.9.q_proj,trellis-3\n", r"no layer 'model\.layers\.9\.q_proj'"),
        ("members,quantizer\nq_proj+k_proj+v_proj+o_proj,trellis-3\ngate_proj+up_proj,trellis-3\ndown_proj,trellis-3\n",
         "read different inputs"),
        ("members,quantizer,unit\nq_proj,trellis-3,a\nk_proj,trellis-2,a\nv_proj,trellis-3,b\n"
         + ALL.replace("3\n", "3,\n"), "are one product, but of trellis-2 and trellis-3"),
    ],
)  # fmt: skip
def test_a_wrong_csv_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_plan(written(tmp_path, text), LAYERS)


def test_an_allocation_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="is no allocation"):
        read_plan(str(tmp_path / "a.json"), pd.DataFrame(LAYERS))


def test_a_dense_plan_keeps_whole_groups_in_16_bits() -> None:
    plan = read_plan("dense-1", LAYERS)
    assert plan == read_plan("dense-1", LAYERS)
    group = dict(zip(LAYERS.layer, LAYERS.fusion_group, strict=True))
    dense = {unit for unit in plan.units if plan.choices[unit[0]].quantizer == "fp16"}
    assert dense
    for unit in dense:
        assert set(unit) == {name for name in LAYERS.layer if group[name] == group[unit[0]]}
    rest = {plan.choices[unit[0]].quantizer for unit in plan.units} - {"fp16"}
    assert rest
    assert rest <= set(MIXED)
