"""experiments.reproduce: every YAML of conf/experiment at reduced size, and its numbers against their definitions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ablation_tables import write_tables
from hydra import compose, initialize_config_dir
from sensitivity_models import one_thread, write_tiny_folder

from alloc.budgets import Budgets
from alloc.problem import build_problem
from alloc.solution import write_allocation
from alloc.solvers import Exact
from alloc.tables import read_tables
from experiments.entry import CONF
from experiments.paper.comparison import Comparison, half_unit
from experiments.paper.perplexity_law import fit_law
from experiments.paper.real_model import mean_accuracy
from experiments.reproduce import main

EVERY = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
ON_TABLES = [name for name in EVERY if "table" not in name]


def reproduce(*overrides: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("reproduce", overrides=list(overrides))
    main(cfg)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small instance with the two plans that the paper's folder has."""
    folder = write_tables(tmp_path_factory.mktemp("tables"))
    read = read_tables(folder)
    for name, fusion in (("figure1c", False), ("figure1d", True)):
        problem = build_problem(read, budgets=Budgets(bits_per_weight=3.0, latency_us=30.0), fusion=fusion)
        write_allocation(folder / f"{name}.json", Exact().solve(problem), read)
    return folder


@pytest.fixture(scope="module")
def out(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All experiments in one run."""
    folder = tmp_path_factory.mktemp("out")
    reproduce(f"tables={tables}", f"out={folder}", "experiment.paper_fig1a_nf3g64.weights=8192")
    return folder


@pytest.fixture(scope="module")
def rows(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "reproduction.csv").set_index(["experiment", "case", "quantity"])


def test_the_default_is_every_experiment() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert sorted(compose("reproduce").experiment) == EVERY


@pytest.mark.parametrize("name", ON_TABLES)
def test_every_experiment_on_tables_runs(name: str, out: Path, rows: pd.DataFrame) -> None:
    found = rows.loc[[name]]
    assert found.ours.notna().any()
    assert f"## {name}" in (out / "reproduction.md").read_text()


def test_real_models_say_why_they_do_not_run(out: Path) -> None:
    page = (out / "reproduction.md").read_text()
    for name in set(EVERY) - set(ON_TABLES):
        assert "meta-llama/Llama-3.1-8B" in page.split(f"## {name}")[1].split("##")[0]


@pytest.mark.parametrize("plan", ["figure1c", "figure1d"])
def test_a_published_plan_is_priced_as_its_tables_say(plan: str, tables: Path, rows: pd.DataFrame) -> None:
    layers = pd.read_csv(tables / "layers.csv").set_index("layer")
    quantizers = pd.read_csv(tables / "quantizers.csv").set_index("quantizer")
    latency = pd.read_csv(tables / "latency.csv")
    parts = {frozenset(members.split("+")) for members in latency.members}
    times = {
        (frozenset(row.members.split("+")), row.quantizer, row.kernel): row.latency_us for row in latency.itertuples()
    }
    chosen = json.loads((tables / f"{plan}.json").read_text())["layers"]
    loss, bits, micro, done = 0.0, 0.0, 10.0, set()
    for name, choice in chosen.items():
        row = layers.loc[name]
        loss += row.sensitivity * quantizers.distortion[choice["quantizer"]]
        bits += row.out_features * row.in_features * quantizers.bits_per_weight[choice["quantizer"]]
        group = frozenset([name, *choice["fused_with"]])
        if group not in done:
            done.add(group)
            members = frozenset(layer.rsplit(".", 1)[-1] for layer in group)
            assert members in parts
            micro += times[members, choice["quantizer"], choice["kernel"]]
    experiment = {"figure1c": "paper_fig1c_nofusion", "figure1d": "paper_fig1d_fusion"}[plan]
    found = rows.loc[experiment].loc[plan].ours
    assert found["objective"] == pytest.approx(loss, rel=1e-9)
    assert found["bits_per_weight"] == pytest.approx(bits / (layers.out_features * layers.in_features).sum(), rel=1e-9)
    assert found["latency_us"] == pytest.approx(micro, rel=1e-6)


def test_ideal_codes_follow_reverse_water_filling(tables: Path, out: Path) -> None:
    """Where every rate is positive the optimum is N (prod (a_i / n_i)^n_i)^(1/N) 4^-b, one rate gives sum a_i 4^-b."""
    layers = pd.read_csv(tables / "layers.csv")
    a, n = layers.sensitivity, layers.out_features * layers.in_features
    frame = pd.read_csv(out / "paper_theory.csv").set_index(["code", "bits"]).objective
    mean = math.exp((n * (a / n).map(math.log)).sum() / n.sum())
    level = mean * 4.0**-4.25
    assert (a / n > level).all(), "every layer is above the water"
    assert frame["ideal, any rate", 4.25] == pytest.approx(n.sum() * level, rel=1e-9)
    assert frame["ideal, one rate", 4.25] == pytest.approx(a.sum() * 4.0**-4.25, rel=1e-9)
    assert frame["ideal, any rate", 4.25] <= frame["ideal, steps of 1/4", 4.25] <= frame["ideal, steps of 1", 4.25]


def test_the_law_is_least_squares_through_the_origin() -> None:
    points = [(0.1, 6.5), (0.05, 6.0), (0.2, 7.5)]
    law = fit_law(5.61, points)

    def squares(slope: float) -> float:
        return sum((math.log(perplexity / 5.61) - slope * loss) ** 2 for loss, perplexity in points)

    assert squares(law.slope) < min(squares(law.slope + 1e-3), squares(law.slope - 1e-3))
    with pytest.raises(ValueError, match="a plan that loses something"):
        fit_law(5.61, [(0.0, 5.61)])


@pytest.mark.parametrize(
    ("published", "ours", "verdict"),
    [
        ("6.10", 6.104, "agrees"),
        ("6.10", 6.3, "differs"),
        ("6.10", 5.9, "better"),
        (None, 1.0, "ours alone"),
        ("6.10", None, "skipped"),
    ],
)
def test_a_number_agrees_to_its_printed_digits_or_one_percent(
    published: str | None, ours: float | None, verdict: str
) -> None:
    assert Comparison(case="x", quantity="perplexity", ours=ours, published=published).verdict == verdict
    assert half_unit("6.10") == 0.005
    assert half_unit(0.119166) == pytest.approx(5e-7)


@pytest.fixture
def _quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.usefixtures("_quick")
def test_a_real_model_is_quantized_and_measured(tmp_path: Path) -> None:
    """Tables 3 and 4 on a tiny model: the corrected checkpoint holds the plan's bytes and other codes, and the 16-bit
    perplexity is one number in both evaluations."""
    write_tiny_folder(tmp_path)
    name, out = "paper_table4_data_aware", tmp_path / "out"
    small = {
        "model": tmp_path / "model", "text": tmp_path / "text.txt", "needs_gpu": "false", "bits": "[3]",
        "members": "[nuq-*]", "uniform": "[nuq-2]", "context": 32, "windows": 4, "tasks": "[]",
        "sensitivity": "constant", "state_bits": 8,
    }  # fmt: skip
    small |= {"calibration.window": 32, "calibration.count": 8}
    reproduce(
        f"experiment=[{name}]", f"out={out}", *(f"experiment.{name}.{key}={value}" for key, value in small.items()),
    )  # fmt: skip
    table = pd.read_csv(out / f"{name}.csv").set_index("case")
    assert list(table.index) == ["16 bits", "3 bits", "uniform nuq-2", "3 bits, ldlq"]
    assert table.kl["16 bits"] == 0
    assert table.kl["uniform nuq-2"] > table.kl["3 bits"] > 0
    assert table.bits_per_weight["3 bits, ldlq"] == table.bits_per_weight["3 bits"]
    assert table.perplexity["3 bits, ldlq"] != table.perplexity["3 bits"]
    again = pd.read_csv(out / "models" / name / "3-bits" / "again" / "summary.csv").set_index("plan")
    assert again.perplexity["reference"] == pytest.approx(table.perplexity["16 bits"], rel=1e-12)


def test_a_model_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    name = "paper_table3_data_free"
    reproduce(
        f"experiment=[{name}]", f"out={tmp_path}", f"experiment.{name}.needs_gpu=false",
        f"experiment.{name}.model={tmp_path / 'absent'}",
    )  # fmt: skip
    assert "absent" in (tmp_path / "reproduction.md").read_text()


def test_the_accuracy_is_the_mean_of_acc() -> None:
    rows = [
        ("a", "piqa", "acc", 0.8),
        ("a", "arc_easy", "acc", 0.6),
        ("a", "arc_easy", "acc_norm", 0.1),
        ("b", "piqa", "acc", 0.5),
    ]
    tasks = pd.DataFrame(rows, columns=["plan", "task", "metric", "value"])
    assert mean_accuracy(tasks) == {"a": pytest.approx(0.7), "b": 0.5}
