"""Fronts of several palettes: their numbers by hand on a model of one block, and both figures."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from commands import here, in_a_process

LAYERS = """layer,out_features,in_features,fusion_group,sensitivity
model.layers.0.mlp.gate_proj,128,64,model.layers.0.mlp.gate_up,2.0
model.layers.0.mlp.up_proj,128,64,model.layers.0.mlp.gate_up,1.0
"""
QUANTIZERS = """quantizer,bits_per_weight,codebook_bytes,distortion
tcq-2,2,0,0.07
trellis2-3,3,0,0.018
fp16,16,0,0
"""
US = {"tcq-2": (3.0, 4.0), "trellis2-3": (4.0, 6.0), "fp16": (20.0, 38.0)}  # one layer, both fused


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rows = ["members,quantizer,kernel,batch,latency_us", "constant,,,1,10"]
    for name, (one, both) in US.items():
        rows += [f"{layer},{name},k,1,{one}" for layer in ("gate_proj", "up_proj")]
        rows.append(f"gate_proj+up_proj,{name},k,1,{both}")
    (tmp_path / "layers.csv").write_text(LAYERS)
    (tmp_path / "quantizers.csv").write_text(QUANTIZERS)
    (tmp_path / "latency.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_every_number_that_is_drawn(tables: Path) -> None:
    facts = {"batch": 1, "bytes": {"layers": 6144}}
    steps = [
        {"plan": "trellis2-3:fused", "median_us": 17.0, "tokens_per_s": 1e6 / 17, **facts},
        {"plan": "mixed-1", "median_us": 18.0, "tokens_per_s": 1e6 / 18, **facts},
    ]
    (tables / "steps.json").write_text(json.dumps({"steps": steps}))
    names = {one: f"model.layers.0.mlp.{one}_proj" for one in ("gate", "up")}
    layers = {
        names[one]: {"quantizer": "tcq-2", "kernel": "k", "fused_with": [names[other]]}
        for one, other in (("gate", "up"), ("up", "gate"))
    }
    assert here("allocate", f"tables={tables}", f"out={tables}/plan", "budget.latency_us=14").returncode == 0
    given = (f"steps={tables}/steps.json", f"plan={tables}/plan/allocation.json", "points=20", "exact=20")
    done = in_a_process("fronts", f"tables={tables}", f"out={tables}/out", *given)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tables / "plan/allocation.json").read_text())["layers"]
    assert plan == layers
    for name in ("fronts.png", "fronts.svg", "choices.png"):
        assert (tables / "out" / name).stat().st_size > 5000
    frame = pd.read_csv(tables / "out/fronts.csv")
    uniform = frame[(frame.curve == "uniform") & (frame.budget == "latency_us")].set_index("plan")
    for name, (_, both) in US.items():
        assert uniform.loc[name, "latency_us"] == 10 + both, "uniform plans are fused where that is faster"
    assert uniform.loc["trellis2-3", "predicted_loss"] == pytest.approx(3 * 0.018)
    speed = frame[frame.budget == "latency_us"]
    fused, apart = (speed[speed.curve == f"all quantizers, {way}"] for way in ("fused", "not fused"))
    assert fused.latency_us.min() == 14
    assert apart.latency_us.min() == 16
    published = speed[speed.curve == "published palette, fused"]
    assert published.predicted_loss.max() == pytest.approx(3 * 0.07)
    measured = frame[frame.curve == "measured"]
    assert measured.plan.tolist() == ["trellis2-3:fused"], "a drawn plan has no loss in the tables"
    assert measured.predicted_loss.tolist() == pytest.approx([3 * 0.018])
    assert not ((frame.curve == "all quantizers, not fused") & (frame.budget == "memory_bytes")).any()


def test_a_table_without_times_is_said(tables: Path) -> None:
    (tables / "latency.csv").unlink()
    done = here("fronts", f"tables={tables}", f"out={tables}/out")
    assert done.returncode == 2
    assert "has no latency.csv" in done.stderr
    assert not (tables / "out").exists()
