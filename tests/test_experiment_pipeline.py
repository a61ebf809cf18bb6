"""The main job as a command, on a tiny model: every artifact, what a second run keeps, a sweep and its front."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest
from commands import here, in_a_process
from sensitivity_models import write_tiny_folder

from alloc.solution import read_allocation
from quantizers.checkpoint import load_checkpoint

SMALL = (
    "sensitivity=constant", "palette.members=[fp16,vq-2,vq-3,vq-4]", "baselines=[int-4]",
    "check.layers=3", "check.quantizer=vq-3",
    "calibration.window=32", "calibration.count=2", "evaluation.window=32", "evaluation.count=4",
)  # fmt: skip
TABLES = {"inventory", "rotation", "rate-distortion", "sensitivity"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pipeline")
    write_tiny_folder(out)
    return out


Run = Callable[..., CompletedProcess[str]]


def pipeline(folder: Path, *overrides: str, model: str = "model", run: Run = here) -> CompletedProcess[str]:
    source = ("model=path", f"model.path={folder / model}", f"text.path={folder / 'text.txt'}")
    return run("pipeline", *overrides, *source, *SMALL, f"cache={folder / 'cache'}")


def test_the_whole_job_and_what_a_second_run_keeps(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = pipeline(folder, f"out={out}", "budget.bits_per_weight=5", run=in_a_process)
    assert done.returncode == 0, done.stderr
    summary = pd.read_csv(out / "summary.csv").set_index("plan")
    mixed = read_allocation(out / "plans/mixed-5-bits/allocation.json")
    assert mixed.status == "optimal"
    tables = pd.read_csv(out / "layers.csv").dropna(subset="sensitivity")
    weights = int((tables.out_features * tables.in_features).sum())
    assert summary.loc["mixed-5-bits", "memory_bytes"] == mixed.costs["memory_bytes"] <= 5 * weights // 8
    uniform = next(plan for plan in summary.index if plan.startswith("vq-"))
    twin = summary.loc[f"mixed-as-{uniform}"]
    assert twin.memory_bytes <= summary.loc[uniform, "memory_bytes"]
    assert twin.predicted_loss <= summary.loc[uniform, "predicted_loss"]
    assert summary.loc["int-4", "kl"] > 0
    assert (out / "report.html").stat().st_size > 10_000
    held = load_checkpoint(out / "checkpoints/mixed-5-bits", packed=True)
    assert set(mixed.layers) <= {name for name, _ in held.model.named_modules()}

    again = pipeline(folder, f"out={out}", "budget.bits_per_weight=5")
    assert again.returncode == 0, again.stderr
    record = json.loads((out / "run.json").read_text())
    assert set(record["seconds"]) == set(record["skipped"])


def test_embedding_and_head_are_layers_where_asked_for(folder: Path, tmp_path: Path) -> None:
    """The whole job once more: they have sensitivities, a choice each (tied: one), and codes in the checkpoint."""
    done = pipeline(folder, f"out={tmp_path}", "budget.bits_per_weight=4", "inventory.head=true", "check.layers=0")
    assert done.returncode == 0, done.stderr
    layers = pd.read_csv(tmp_path / "layers.csv").set_index("layer")
    ends = [name for name in layers.index if "layers" not in name]
    assert "lm_head" in ends
    assert (layers.sensitivity[ends] > 0).all()
    plan = read_allocation(tmp_path / "plans/mixed-4-bits/allocation.json")
    assert set(ends) <= set(plan.layers)
    weights = int((layers.out_features * layers.in_features).sum())
    assert plan.costs["memory_bytes"] <= 4 * weights // 8, "of all weights, the ends among them"
    held = load_checkpoint(tmp_path / "checkpoints/mixed-4-bits", packed=True).model
    for name in ends:
        assert plan.layers[name].quantizer != "fp16"
        assert hasattr(held.get_submodule(name), "quantizer") or hasattr(held.get_submodule(name), "matrix")


def test_a_sweep_shares_its_tables_and_its_runs_make_a_front(folder: Path, tmp_path: Path) -> None:
    name = f"out={tmp_path}/${{budget.bits_per_weight}}"
    done = pipeline(folder, "--multirun", name, "budget.bits_per_weight=4,5", "check.layers=0")
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / bits / "run.json").read_text()) for bits in ("4", "5")]
    assert set(records[1]["skipped"]) >= TABLES
    done = in_a_process("pareto", f"run={tmp_path / '4'}")
    assert done.returncode == 0, done.stderr
    front = pd.read_csv(tmp_path / "4/pareto.csv").dropna(subset="measured_kl")
    assert {"mixed-4-bits", "mixed-5-bits"} <= set(front.plan)


def test_the_bytes_of_a_uniform_plan_are_a_budget(folder: Path, tmp_path: Path) -> None:
    done = pipeline(folder, f"out={tmp_path}", "budget.uniform=vq-4", "check.layers=0")
    assert done.returncode == 0, done.stderr
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("plan")
    assert summary.loc["mixed-as-vq-4", "memory_bytes"] <= summary.loc["vq-4", "memory_bytes"]
    assert summary.loc["mixed-as-vq-4", "predicted_loss"] <= summary.loc["vq-4", "predicted_loss"]


def test_a_model_that_is_not_there_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    done = pipeline(folder, f"out={tmp_path / 'run'}", model="absent")
    assert done.returncode == 2
    assert str(folder / "absent") in done.stderr
    assert not list(tmp_path.iterdir())
