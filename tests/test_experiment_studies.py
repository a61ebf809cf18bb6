"""Every study on small tables, against what its cells are defined as."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ablation_tables import FACTOR, names, write_tables
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scipy.stats import spearmanr

from alloc.tables import Tables, read_tables
from analysis.ablation import rank_correlations
from experiments.entry import CONF
from experiments.stages import Stages
from experiments.studies import STUDIES, Cell, Material, Study
from experiments.studies.budget_scope import GLOBAL, block_pattern, type_pattern
from experiments.studies.palette_ladder import IDEAL, IDEAL_UNIFORM
from experiments.studies.sensitivity_methods import with_sensitivity
from quantizers import make_quantizer
from quantizers.distortion import gaussian_distortion

PRESETS = sorted(path.stem for path in (CONF / "study").glob("*.yaml"))
# what makes a preset small, or right for tables as fast as these
REDUCED = {
    "state_bits": [
        "study.members=[tcq-2,tcq-3]",
        "study.state_bits=[8,10]",
        "study.weights=4096",
        "+study.baseline='L = 8'",
    ],
    "fusion": ["study.tokens_per_second=[36000,44000]"],
    "kernels": ["study.tokens_per_second=[36000,44000]"],
}


def make(name: str, *overrides: str) -> Study:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("ablate", overrides=[f"study={name}", *REDUCED.get(name, []), *overrides])
    study: Study = instantiate(cfg.study, _convert_="all")
    return study


def material(tmp_path: Path, **options: Any) -> Material:
    folder = write_tables(tmp_path / "tables", **options)
    return Material(tables=read_tables(folder), folder=folder, stages=Stages(tmp_path / "out"))


def by_variant(cells: list[Cell], budget: str) -> dict[str, Cell]:
    return {cell.variant: cell for cell in cells if cell.budget == budget}


def plan_loss(tables: Tables, cell: Cell) -> float:
    """sum_l a_l d, from the columns."""
    assert cell.solution is not None
    a = dict(zip(tables.layers, tables.sensitivity.tolist(), strict=True))
    return sum(a[layer] * names()[choice.quantizer][1] for layer, choice in cell.solution.layers.items())


def test_every_study_has_a_preset_and_is_listed() -> None:
    assert {type(make(name)) for name in PRESETS} == set(STUDIES)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_and_a_cell_without_a_plan_says_why(name: str, tmp_path: Path) -> None:
    study = make(name)
    cells = list(study.cells(material(tmp_path)))
    budgets = {cell.budget for cell in cells}
    assert len(cells) == len({(cell.variant, cell.budget) for cell in cells})
    assert study.baseline in {cell.variant for cell in cells if cell.solution is not None}
    for budget in budgets:
        assert {cell.variant for cell in cells if cell.budget == budget} == {cell.variant for cell in cells}
    for cell in cells:
        law = cell.variant in (IDEAL, IDEAL_UNIFORM)
        assert (cell.solution is None) == (bool(cell.reason) or law)
        if cell.solution is not None and not math.isnan(cell.predicted_loss) and name != "state_bits":
            assert cell.predicted_loss == pytest.approx(plan_loss(read_tables(tmp_path / "tables"), cell))


def test_a_richer_palette_never_loses_and_ideal_codes_are_the_end(tmp_path: Path) -> None:
    given = material(tmp_path)
    tables = given.tables
    cells = list(make("palette_ladder").cells(given))
    for value in (2.5, 3.25, 4.25):
        loss = {name: cell.predicted_loss for name, cell in by_variant(cells, f"{value:g} bits").items()}
        chain = ("scalar", "+ vector"), ("trellis, whole rates", "trellis, half rates")
        for poorer, richer in (*chain, ("trellis, half rates", "trellis, quarter rates")):
            assert loss[richer] <= loss[poorer]
        assert loss[IDEAL_UNIFORM] == pytest.approx(tables.sensitivity.sum() * 4.0**-value)
        # every code is worse than 4^-b by the factor of its family at least
        best = min(loss[name] for name in loss if name not in (IDEAL, IDEAL_UNIFORM))
        assert loss[IDEAL] <= loss[IDEAL_UNIFORM]
        assert loss[IDEAL] * FACTOR["trellis"] <= best


def test_a_family_that_the_tables_lack_is_a_reason(tmp_path: Path) -> None:
    given = material(tmp_path, families=("nuq", "vq", "tcq"))
    cell = by_variant(list(make("palette_ladder").cells(given)), "3.25 bits")["computed trellis"]
    assert "'trellis-*' matches no quantizer" in cell.reason


def test_fusion_and_kernels_are_only_more_options(tmp_path: Path) -> None:
    given = material(tmp_path)
    for budget in ("36000 tokens/s", "44000 tokens/s"):
        fused = by_variant(list(make("fusion").cells(given)), budget)
        assert fused["mixed, fusion"].predicted_loss < fused["mixed, no fusion"].predicted_loss
        assert fused["mixed, fusion"].predicted_loss <= fused["uniform, fusion"].predicted_loss
        sets = by_variant(list(make("kernels").cells(given)), budget)
        assert sets["both"].predicted_loss <= min(sets["cuda-core"].predicted_loss, sets["tensor-core"].predicted_loss)
        assert sets["both"].predicted_loss == fused["mixed, fusion"].predicted_loss
        plan = sets["cuda-core"].solution
        assert plan is not None
        assert {choice.kernel for choice in plan.layers.values()} == {"cuda-core"}


@pytest.mark.parametrize("name", ["fusion", "kernels"])
def test_without_latency_there_is_a_reason(name: str, tmp_path: Path) -> None:
    cells = make(name).cells(material(tmp_path, latency=False))
    assert {cell.reason for cell in cells} == {"the tables folder has no latency.csv"}


def test_no_solver_is_better_than_the_proven_optimum(tmp_path: Path) -> None:
    cells = list(make("solver").cells(material(tmp_path)))
    for budget in {cell.budget for cell in cells}:
        own = by_variant(cells, budget)
        assert own["exact"].solution is not None
        assert own["exact"].solution.status == "optimal"
        assert own["evolutionary, measured KL"].reason
        for cell in own.values():
            assert cell.solution is None or cell.predicted_loss >= own["exact"].predicted_loss * (1 - 1e-12)


def test_every_part_keeps_within_its_own_budget(tmp_path: Path) -> None:
    given = material(tmp_path)
    tables, cells = given.tables, list(make("budget_scope").cells(given))
    size = dict(zip(tables.layers, tables.params.tolist(), strict=True))
    for budget in {cell.budget for cell in cells}:
        bits, own = float(budget.split()[0]), by_variant(cells, budget)
        for variant, pattern in (("one for each type", type_pattern), ("one for each block", block_pattern)):
            plan = own[variant].solution
            assert plan is not None
            for part in {pattern(layer) for layer in tables.layers}:
                layers = [layer for layer in tables.layers if fnmatchcase(layer, part)]
                used = sum(names()[plan.layers[layer].quantizer][0] * size[layer] for layer in layers)
                assert used <= bits * sum(size[layer] for layer in layers)
            assert own[GLOBAL].predicted_loss <= own[variant].predicted_loss <= own["one for each layer"].predicted_loss
    assert block_pattern("model.layers.1.mlp.up[0].proj") == "model.layers.1.*"
    assert fnmatchcase("a.1.b[0]", type_pattern("a.1.b[0]"))


def test_other_sensitivities_move_the_plan_but_not_its_price(tmp_path: Path) -> None:
    given = material(tmp_path)
    tables = given.tables
    rng = np.random.default_rng(1)
    fisher = rng.lognormal(size=len(tables.layers))
    frame = pd.DataFrame({"layer": tables.layers, "fisher": fisher})
    frame.iloc[::-1].to_csv(given.folder / "sensitivities.csv", index=False)
    other = with_sensitivity(tables, frame.set_index("layer").fisher)
    np.testing.assert_allclose(other.loss, fisher[:, None] * tables.distortion[None, :])
    own = by_variant(list(make("sensitivity").cells(given)), "3.25 bits")
    assert own["fisher"].predicted_loss == pytest.approx(plan_loss(tables, own["fisher"]))
    assert own["tables"].predicted_loss < own["fisher"].predicted_loss
    assert "fisher" not in own["noise_text"].reason
    assert own["noise_text"].reason
    ranks = pd.read_csv(tmp_path / "out/rank_correlation.csv").set_index(["method", "other"])
    assert ranks.loc[("tables", "fisher"), "spearman"] == pytest.approx(spearmanr(tables.sensitivity, fisher).statistic)


def test_rank_correlations_share_the_rank_of_ties() -> None:
    values = pd.DataFrame({"a": [1.0, 2.0, 2.0, 5.0, np.nan], "b": [3.0, 1.0, 4.0, 4.0, 9.0], "c": 1.0})
    found = rank_correlations(values).set_index(["method", "other"])
    expected = spearmanr(values.a[:4], values.b[:4]).statistic
    assert found.loc[("a", "b"), "spearman"] == pytest.approx(expected)
    assert found.loc[("a", "b"), "layers"] == 4
    assert math.isnan(found.loc[("a", "c"), "spearman"])


def test_more_states_are_measured_not_assumed(tmp_path: Path) -> None:
    given = material(tmp_path)
    cells = list(make("state_bits", "study.bits=[2.5]").cells(given))
    for cell in cells:
        L = int(cell.variant.removeprefix("L = "))
        measured = {
            name: gaussian_distortion(make_quantizer(name, L), weights=4096, seed=0)[0] for name in ("tcq-2", "tcq-3")
        }
        assert cell.solution is not None
        a = dict(zip(given.tables.layers, given.tables.sensitivity.tolist(), strict=True))
        plan = cell.solution.layers
        assert cell.predicted_loss == pytest.approx(sum(a[n] * measured[c.quantizer] for n, c in plan.items()))
        assert cell.encoding.state_bits == L
