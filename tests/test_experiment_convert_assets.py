"""experiments.convert_assets: dictionaries of tensors become a tables folder; a pickle that runs code is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from alloc.tables import read_tables
from experiments.convert_assets import latency_rows, main, quantizer_facts
from experiments.entry import CONF

DISTORTIONS = {
    "tcq_6_none_0.9": 0.0189,
    "tcq_4_none_0.9": 0.071,
    "tcomb_6_7_0.5_none_0.9": 0.0145,
    "ldlq_1_4_none_1.0": 0.0095,
}
LETTERS = ["q", "k", "v", "o", "g", "u", "d", "qk", "kv", "qv", "qkv", "ug"]
PARTS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj"]  # fmt: skip


def convert(*overrides: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("convert_assets", overrides=list(overrides))
    main(cfg)


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """Two blocks, four quantizers, all fusions; a plan that fuses q + k + v of the first block."""
    generator = torch.Generator().manual_seed(0)
    sensitivities = {f"{i}_{part}": torch.rand(1, generator=generator)[0] for i in range(2) for part in PARTS}
    torch.save({"constant": 0, **sensitivities}, tmp_path / "coefficients.pt")
    torch.save({name: torch.tensor(value) for name, value in DISTORTIONS.items()}, tmp_path / "errors.pt")
    seconds = {"constant": torch.tensor(1e-3)}
    for letters in LETTERS:
        for name in DISTORTIONS:
            for cores in ("False", "True") if name.startswith("ldlq") else ("False",):
                seconds[f"{letters}_{name}_{cores}"] = torch.rand(1, generator=generator)[0] * 1e-5
    torch.save(seconds, tmp_path / "times.pt")
    plan = dict.fromkeys(sensitivities, ("tcq_6_none_0.9", "0")) | {"1_mlp.down_proj": ("ldlq_1_4_none_1.0", "1")}
    torch.save(plan, tmp_path / "plan.pt")
    torch.save([["merge_qkv"], []], tmp_path / "merges.pt")
    return tmp_path


def given(assets: Path) -> list[str]:
    return [
        f"sensitivities={assets / 'coefficients.pt'}", f"distortions={assets / 'errors.pt'}",
        f"latencies={assets / 'times.pt'}", "shape={hidden:64,intermediate:160,key_value:32}",
        f"+plans.mine={{choices:{assets / 'plan.pt'},merges:{assets / 'merges.pt'}}}",
    ]  # fmt: skip


def test_the_folder_holds_what_the_files_say(assets: Path) -> None:
    out = assets / "tables"
    convert(*given(assets), f"out={out}")
    sensitivities = torch.load(assets / "coefficients.pt", weights_only=True)
    seconds = torch.load(assets / "times.pt", weights_only=True)
    tables = read_tables(out)
    assert len(tables.layers) == 14
    layers = pd.read_csv(out / "layers.csv").set_index("layer")
    for key, value in sensitivities.items():
        if key != "constant":
            block, part = key.split("_", 1)
            assert layers.sensitivity[f"model.layers.{block}.{part}"] == pytest.approx(float(value), rel=1e-12)
    shapes = layers[["out_features", "in_features"]].loc["model.layers.1.mlp.down_proj"].tolist()
    assert shapes == [64, 160]
    plan = json.loads((out / "mine.json").read_text())
    assert plan["layers"]["model.layers.0.self_attn.k_proj"]["fused_with"] == [
        "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
    ]  # fmt: skip
    assert plan["layers"]["model.layers.1.mlp.down_proj"] == {
        "quantizer": "nuq-4", "kernel": "cuda-core", "fused_with": []
    }  # fmt: skip
    total = float(seconds["constant"]) + float(seconds["d_ldlq_1_4_none_1.0_True"])
    groups = ["qkv", "o", "g", "u", "d", "q", "k", "v", "o", "g", "u"]
    total += sum(float(seconds[f"{group}_tcq_6_none_0.9_False"]) for group in groups)
    assert plan["costs"]["latency_us"] == pytest.approx(1e6 * total, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("tcq_3_none_0.9", ("tcq-1.5", 1.5, 4 * 512)),
        ("tcq_9_none_0.9", ("tcq-4.5", 4.5, 4 * 1024)),
        ("tcq_10_none_0.9", ("tcq-5", 5.0, 4 * 2048)),
        ("tcomb_8_9_0.5_none_0.9", ("half-tcq-4.25", 4.25, 4 * 1024)),
        ("ldlq_2_7_none_1.0", ("vq-3.5", 3.5, 128 * 4)),
        ("ldlq_1_3_none_1.0", ("nuq-3", 3.0, 16)),
    ],
)
def test_names_of_quantizers(name: str, facts: tuple[str, float, int]) -> None:
    assert quantizer_facts(name) == facts


@pytest.mark.parametrize("name", ["tcq", "tcq_x", "ldlq_4_8_none_1.0", "int_4", ""])
def test_a_name_that_is_not_published_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a published quantizer"):
        quantizer_facts(name)
    with pytest.raises(ValueError, match="not the name of a published"):
        latency_rows({f"zz_{name}_Maybe": 1.0})


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_file_that_would_run_code_is_refused(assets: Path) -> None:
    sprung = assets / "sprung"
    torch.save({"0_self_attn.q_proj": Trap(sprung)}, assets / "coefficients.pt")
    with pytest.raises(ValueError, match="is no file of numbers"):
        convert(*given(assets), f"out={assets / 'tables'}")
    assert not sprung.exists()
    assert not (assets / "tables").exists()
    torch.save([1, 2], assets / "coefficients.pt")
    with pytest.raises(ValueError, match="holds a list, not a dict"):
        convert(*given(assets), f"out={assets / 'tables'}")
