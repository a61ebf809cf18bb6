"""Predictions add up by hand, and a timeline of kernels is charged to groups so that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from step_models import CONFIGS

from quantizers.kernels.predicted_step import compared, error_percent, main, products_us, read_table
from quantizers.kernels.random_model import block_layers
from quantizers.kernels.random_plan import read_plan
from quantizers.kernels.step_breakdown import ORDER, Kernel, breakdown, group_of, groups_of

LAYERS = block_layers(CONFIGS["llama"]())
TABLE = """members,quantizer,kernel,batch,out_features,in_features,latency_us,least_us,most_us
constant,,,1,,,100,99,101
k_proj+q_proj+v_proj,trellis-3,tensor-core,1,128,64,7,7,7
k_proj+q_proj+v_proj,trellis-3,slow,1,128,64,9,9,9
o_proj,trellis-3,tensor-core,1,64,64,5.5,5,6
gate_proj+up_proj,trellis-3,tensor-core,1,384,64,20,20,20
down_proj,trellis-3,tensor-core,1,64,192,11,11,11
q_proj,trellis-3,tensor-core,1,64,64,5,5,5
k_proj,trellis-3,tensor-core,1,32,64,2,2,2
v_proj,trellis-3,tensor-core,1,,,3,3,3
gate_proj,trellis-3,tensor-core,1,192,64,12,12,12
up_proj,trellis-3,tensor-core,1,192,64,13,13,13
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "latency.csv").write_text(TABLE)
    return tmp_path / "latency.csv"


def test_predictions_add_up(path: Path) -> None:
    table = read_table(path)
    fused, unfused = (read_plan(f"trellis-3:{how}", LAYERS) for how in ("fused", "unfused"))
    assert products_us(fused, LAYERS, table, 1) == 2 * (7 + 5.5 + 20 + 11)
    assert products_us(unfused, LAYERS, table, 1) == 2 * (5 + 2 + 3 + 5.5 + 12 + 13 + 11)
    rows = compared([fused, unfused], CONFIGS["llama"](), table, [1], {("trellis-3:fused", 1): 200.0})
    assert rows.predicted_us.tolist() == [187.0, 203.0]
    assert rows.error_percent[0] == pytest.approx(-6.5)
    assert rows.measured_us.isna().tolist() == [False, True]
    assert error_percent(103, 100) == pytest.approx(3)


def test_what_the_table_lacks_is_said(path: Path) -> None:
    table = read_table(path)
    with pytest.raises(ValueError, match=r"no row q_proj\+k_proj\+v_proj of trellis-2, batch 1, 128 x 64"):
        products_us(read_plan("trellis-2", LAYERS), LAYERS, table, 1)
    with pytest.raises(ValueError, match="no row 'constant' for batch 4"):
        table.constant(4)
    path.write_text(TABLE.replace("128,64", "256,64"))
    with pytest.raises(ValueError, match="128 x 64"):
        products_us(read_plan("trellis-3", LAYERS), LAYERS, read_table(path), 1)
    path.write_text("members,quantizer,batch\n")
    with pytest.raises(ValueError, match="lacks the column latency_us"):
        read_table(path)


def test_the_command_compares(path: Path, tmp_path: Path) -> None:
    CONFIGS["llama"]().save_pretrained(tmp_path)
    (tmp_path / "step.json").write_text(
        json.dumps({"steps": [{"plan": "trellis-3:fused", "batch": 1, "median_us": 190}]})
    )
    given = ["--latency", str(path), "--config", str(tmp_path), "--measured", str(tmp_path / "step.json")]
    main([*given, "--plans", "trellis-3", "--out", str(tmp_path / "out.csv")])
    row = pd.read_csv(tmp_path / "out.csv").iloc[0]
    assert (row.predicted_us, row.measured_us) == (187, 190)
    with pytest.raises(SystemExit, match=r"error: .*no quantizer is named"):
        main([*given, "--plans", "trellis-none"])


STEP = [
    ("triton_red_fused__to_copy_add_embedding_mean_mul_pow_rsqrt_0", "norm and elementwise"),
    ("void (anonymous namespace)::hadamard<__half>(HadamardParams)", "rotation"),
    ("void (anonymous namespace)::gemv<13, Operands<1>, __half>(GemvParams, int, int, Divisor)", "product"),
    ("triton_poi_fused_add_cat_index_index_put_mul_neg_1", "norm and elementwise"),
    ("void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, cutlass::half_t>>", "attention"),
    ("triton_per_fused__softmax_masked_fill_2", "attention"),
    ("triton_poi_fused_mul_silu_3", "norm and elementwise"),
    ("void gemvNSP_kernel<__half, __half, float>", "product"),
    ("triton_red_fused_argmax_4", "sampling"),
]


def test_kernels_are_grouped_by_name_and_the_last_product_is_the_head() -> None:
    names = [name for name, _ in STEP]
    assert [group_of(name) for name in names] == [group for _, group in STEP]
    assert groups_of(names) == [*(group for _, group in STEP[:-2]), "head", "sampling"]
    split = [*names[:-1], "void cublasLt::splitKreduce_kernel<32, 16, int>", names[-1]]
    assert groups_of(split)[-3:] == ["head", "head", "sampling"]
    int8 = [*names[:-2], "triton_red_fused__to_copy_mul_sum_5", names[-1]]
    assert groups_of(int8)[-2:] == ["head", "sampling"]


def test_a_timeline_is_charged_whole() -> None:
    rotation, gemv, head = STEP[1][0], STEP[2][0], STEP[7][0]
    # two steps of 20 us, 30 us apart: rotation 0-4, a product that starts early 1-10, a gap of 2, the head 12-20
    kernels = [
        kernel
        for start in (0.0, 30.0)
        for kernel in (
            Kernel(start=start, end=start + 4, name=rotation),
            Kernel(start=start + 1, end=start + 10, name=gemv),
            Kernel(start=start + 12, end=start + 20, name=head),
        )
    ]
    table = breakdown(reversed(kernels), 2).set_index("group")
    assert table.us.loc[["rotation", "product", "head", "gaps", "all"]].tolist() == [4, 6, 8, (2 + 2 + 10) / 2, 25]
    assert table.nodes.loc[["rotation", "product", "head", "all"]].tolist() == [1, 1, 1, 3]
    assert table.us[list(ORDER[:-1])].sum() == table.us["all"]
    assert table.share["all"] == 1
    with pytest.raises(ValueError, match="6 kernels are not those of 4 equal steps"):
        breakdown(kernels, 4)
    with pytest.raises(ValueError, match="0 kernels"):
        breakdown([], 2)
