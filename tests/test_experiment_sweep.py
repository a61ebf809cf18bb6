"""Sweeps of the main job on a tiny model: killed and taken up again, several at a time, in one table at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from sensitivity_models import write_tiny_folder

from analysis.collect import collect

ROOT = Path(__file__).resolve().parent.parent
RATES = (4, 6)
HAS_JOBLIB = any(found.name == "hydra-joblib-launcher" for found in metadata.distributions())
HAS_RAY = any(found.name == "hydra-ray-launcher" for found in metadata.distributions())
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2") if HAS_JOBLIB else ()
PLENTY_S = 120  # for one run on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    write_tiny_folder(out)
    return out


def command(folder: Path, out: Path, *overrides: str) -> list[str]:
    return [
        sys.executable, "-m", "experiments.pipeline", "--multirun", f"out={out}/${{budget.bits_per_weight}}",
        f"budget.bits_per_weight={','.join(map(str, RATES))}", "model=path", f"model.path={folder / 'model'}",
        f"text.path={folder / 'text.txt'}", "sensitivity=constant", "palette=scalar",
        "baselines=[]", "check.layers=0", "calibration.window=32", "calibration.count=2", "evaluation.window=32",
        "evaluation.count=2", f"cache={out / 'cache'}", f"hydra.sweep.dir={out / 'hydra'}", *overrides,
    ]  # fmt: skip


def finish(words: list[str]) -> None:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_killed_sweep_goes_on_and_its_runs_are_one_table(folder: Path, tmp_path: Path) -> None:
    """Killed as soon as a run is done, and started again two at a time where joblib's launcher (the extra `sweep`) is
    there: nothing of that run is repeated, and all runs end."""
    words = command(folder, tmp_path)
    started = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    first = tmp_path / str(RATES[0])
    end = time.monotonic() + PLENTY_S
    while not (first / "run.json").is_file() and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert (first / "run.json").is_file()
    assert not (tmp_path / str(RATES[-1]) / "run.json").is_file()
    evaluation = (first / "evaluation.csv").stat().st_mtime_ns

    finish([*words, *JOBLIB])
    assert (first / "evaluation.csv").stat().st_mtime_ns == evaluation
    repeated = json.loads((first / "run.json").read_text())
    assert set(repeated["skipped"]) == set(repeated["seconds"])
    table = collect(tmp_path)
    mixed = table[[plan == f"mixed-{rate}-bits" for plan, rate in zip(table.plan, table.run, strict=True)]]
    assert sorted(mixed["config.budget.bits_per_weight"]) == list(RATES)
    assert (mixed.bits_per_weight <= mixed["config.budget.bits_per_weight"]).all()
    assert "config.seed" not in table


@pytest.mark.skipif(not HAS_RAY, reason="hydra-ray-launcher is not installed (the extra `ray`)")
def test_a_cluster_of_two_workers_runs_a_sweep(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        ray = ("hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}")
        finish(command(folder, tmp_path, *ray, "+hydra.launcher.ray.init.object_store_memory=null"))
    finally:
        cluster.shutdown()
    for rate in RATES:
        assert (tmp_path / str(rate) / "run.json").is_file()


def test_only_settings_that_differ_are_columns(tmp_path: Path) -> None:
    for name, rate, seed in (("a", 3, None), ("b", 4, 1)):
        run = tmp_path / name
        run.mkdir()
        config = {"budget": {"bits_per_weight": rate, "uniform": None}, "pin": [], "out": "x"}
        if seed is not None:
            config["extra"] = {"seed": seed}
        (run / "run.json").write_text(json.dumps({"command": ["python", "--multirun", "b=3,4"], "config": config}))
        (run / "ablation.csv").write_text(
            "study,variant,budget,predicted_loss,lower_bound,gap,bits_per_weight,memory_bytes,latency_us,runtime_s,reason\n"
            f"solver,exact,{rate} bits,0.5,0.5,0,{rate},100,,0.1,\nsolver,greedy,{rate} bits,,,,,,,,no plan\n"
        )
    table = collect(tmp_path, "ablation.csv")
    assert table["config.budget.bits_per_weight"].tolist() == [3, 3, 4, 4]
    assert [column for column in table if column.startswith("config.")] == [
        "config.budget.bits_per_weight",
        "config.extra.seed",
    ]
    assert table["config.extra.seed"].isna().tolist() == [True, True, False, False]
    assert table["override.b"].unique().tolist() == ["3,4"]
