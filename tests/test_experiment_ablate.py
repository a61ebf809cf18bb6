"""experiments.ablate as a command on a tiny model: measured cells against their definition, what a second run keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest
from ablation_tables import write_tables
from commands import here, in_a_process
from hydra import compose, initialize_config_dir
from sensitivity_models import one_thread, write_tiny_folder

from alloc.problem import Budgets, build_problem
from alloc.solvers import Exact
from alloc.tables import read_tables
from experiments.ablate import main
from experiments.entry import CONF
from quantizers.checkpoint import LayerChoice, quantize_in_place
from quantizers.evaluation import evaluate, paired
from quantizers.models import load_model, load_text, token_windows

PALETTE = ["nuq-*", "vq-3", "vq-4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablate")
    write_tiny_folder(out)
    return out


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with one_thread():
        yield


def ablate(*overrides: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("ablate", overrides=list(overrides))
    main(cfg)


def measured(folder: Path, out: Path, *overrides: str) -> None:
    source = ("model=path", f"model.path={folder / 'model'}", f"text.path={folder / 'text.txt'}")
    ablate(
        *source, f"out={out}", "measure=true", "sensitivity=constant", f"palette.members=[fp16,{','.join(PALETTE)}]",
        "calibration.window=32", "calibration.count=2", "evaluation.window=32", "evaluation.count=4", "state_bits=8",
        f"cache={folder / 'cache'}", *overrides,
    )  # fmt: skip


def kl_by_definition(folder: Path, out: Path, bits: float) -> pd.DataFrame:
    """window, plan, kl: the optimal plan encoded with rotation seeds 0 and 3, each as a checkpoint would hold it."""
    model = str(folder / "model")
    problem = build_problem(read_tables(out), budgets=Budgets(bits_per_weight=bits), members=PALETTE)
    plan = {name: LayerChoice(quantizer=c.quantizer) for name, c in Exact().solve(problem).layers.items()}
    candidates = {}
    for seed in (0, 3):
        loaded = load_model(model)
        quantize_in_place(loaded, plan, rotation_seed=seed, state_bits=8)
        candidates[f"seed {seed}"] = loaded.model
    reference = load_model(model)
    documents = load_text(str(folder / "text.txt")).evaluation
    return evaluate(reference.model, candidates, token_windows(reference.tokenizer, documents, window=32, count=4))


def test_measured_cells_are_paired_kl_and_are_measured_once(folder: Path, tmp_path: Path) -> None:
    study = ("study=rotation", "study.seeds=[0,3]", "study.members=null", "study.bits=[4]")
    measured(folder, tmp_path, *study)
    frame = pd.read_csv(tmp_path / "ablation.csv").set_index("variant")
    truth = kl_by_definition(folder, tmp_path, 4.0)
    for seed in ("seed 0", "seed 3"):
        kl = truth[truth.plan == seed].kl.to_numpy()
        assert frame.loc[seed, "kl"] == pytest.approx(kl.mean(), rel=1e-4)
        assert frame.loc[seed, "kl_se"] == pytest.approx(kl.std(ddof=1) / np.sqrt(4), rel=1e-4)
    expected = paired(truth, "seed 3", "seed 0")
    found = frame.loc["seed 3", ["difference", "difference_se"]].tolist()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert np.isnan(frame.loc["seed 0", "difference"])
    assert frame.loc["no rotation", "kl"] > 0
    assert np.isnan(frame.loc["no rotation", "predicted_loss"])
    assert "seed 3" in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "ablation_rotation.svg").stat().st_size > 5_000

    kept = {path: path.stat().st_mtime_ns for path in (folder / "cache/measured").iterdir()}
    assert len(kept) == 3
    measured(folder, tmp_path, *study)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache/measured").iterdir()} == kept
    record = json.loads((tmp_path / "run.json").read_text())
    assert set(record["skipped"]) == {"inventory", "rate-distortion", "storage", "sensitivity"}


def test_a_search_by_measured_kl_keeps_to_the_budget_and_is_done_once(folder: Path, tmp_path: Path) -> None:
    study = (
        "study=solver", "study.members=null", "study.bits=[4]", "study.search.generations=3",
        "study.search.offspring=3", "study.text.windows=1", "study.text.tokens=32",
    )  # fmt: skip
    measured(folder, tmp_path, *study)
    frame = pd.read_csv(tmp_path / "ablation.csv").set_index("variant")
    searched = frame.loc["evolutionary, measured KL"]
    assert searched.kl > 0
    assert searched.predicted_loss >= frame.loc["exact", "predicted_loss"] * (1 - 1e-12)
    layers = pd.read_csv(tmp_path / "layers.csv").dropna(subset="sensitivity")
    assert frame.memory_bytes.max() <= 4 * (layers.out_features * layers.in_features).sum() / 8
    plan = tmp_path / "plans/evolutionary-measured-4/allocation.json"
    before = plan.stat().st_mtime_ns
    measured(folder, tmp_path, *study)
    assert plan.stat().st_mtime_ns == before


def test_sensitivities_are_measured_where_there_is_a_model(folder: Path, tmp_path: Path) -> None:
    fast = [
        f"study.methods.{name}.{setting}=2" for name in ("fisher", "hessian_trace") for setting in ("draws", "tokens")
    ]
    fast += [f"study.methods.noise_{name}.tokens=16" for name in ("random_tokens", "text")]
    study = ("study=sensitivity", "study.members=null", "study.bits=[4]", *fast, "+study.methods.layer_cosine.count=1")
    measured(folder, tmp_path, *study)
    frame = pd.read_csv(tmp_path / "ablation.csv").set_index("variant")
    assert frame.kl.gt(0).all()
    assert len(frame) == 8
    values = pd.read_csv(tmp_path / "sensitivities.csv")
    assert {*values.columns} >= {"layer", "fisher", "noise_text", "hessian_trace", "layer_cosine", "one_layer"}
    ranks = pd.read_csv(tmp_path / "rank_correlation.csv")
    assert len(ranks) == 8 * 7 // 2
    assert ranks.spearman.abs().max() <= 1


def test_further_quantizers_join_the_tables(tmp_path: Path) -> None:
    tables = write_tables(tmp_path / "tables", families=("nuq", "vq", "tcq", "half-tcq"))
    more = tmp_path / "more.csv"
    more.write_text(
        "quantizer,bits_per_weight,codebook_bytes,distortion,bytes_per_row,standard_error\n"
        "trellis-2,2,0,0.068,2,0.0001\ntrellis-4,4,0,0.0044,2,0.00001\ntcq-2,2,0,0.5,2,0.1\n"
    )
    ablate("study=palette_ladder", f"tables={tables}", f"quantizers={more}", f"out={tmp_path / 'out'}")
    joined = read_tables(tmp_path / "out/tables")
    at = joined.quantizer_index("trellis-4")
    assert joined.storage_bytes[0, at] == 32 * 32 * 4 // 8 + 2 * 32
    assert joined.distortion[joined.quantizer_index("tcq-2")] != 0.5  # the tables' own row stays
    assert joined.storage_bytes[0, joined.quantizer_index("nuq-2")] == 32 * 32 * 2 // 8
    frame = pd.read_csv(tmp_path / "out/ablation.csv")
    assert frame[frame.variant == "computed trellis"].predicted_loss.notna().any()


@pytest.mark.parametrize(
    ("run", "study", "message"),
    [(in_a_process, "fusion", "absent: no such tables folder"), (here, "nothing", "nothing")],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    run: Callable[..., CompletedProcess[str]], study: str, message: str, tmp_path: Path
) -> None:
    done = run("ablate", f"study={study}", "tables=absent", f"out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
