"""Every figure draws its frame: positions, heights, labels and colours against the numbers of the tables."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_analysis_run_folder import MIXED, MIXED_LARGE, UNIFORM, fabricate

from analysis import (
    bit_map,
    figures,
    gaussianity,
    pareto,
    plans,
    predicted_measured,
    rate_distortion,
    sensitivity,
    stage_times,
    style,
)
from analysis.artifacts import Run, read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(fabricate(tmp_path_factory.mktemp("figures") / "run"))


def lines(figure: Figure, panel: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """label -> (x, y) of the labelled lines and error bars of one panel."""
    axes = figure.axes[panel]
    drawn = {str(line.get_label()): line for line in axes.lines}
    drawn |= {str(bar.get_label()): bar.lines[0] for bar in axes.containers if hasattr(bar, "has_yerr")}
    return {name: (np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for name, line in drawn.items()}


def words(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_rate_distortion_draws_every_family_and_the_bound(run: Run) -> None:
    frame = run.frames["rate_distortion.csv"]
    figure = rate_distortion.figure(frame)
    upper, lower = lines(figure, 0), lines(figure, 1)
    for name in ("tcq", "half-tcq", "vq", "nuq"):
        own = frame[frame["quantizer"].str.replace(r"-[\d.]+$", "", regex=True) == name].sort_values("bits_per_weight")
        np.testing.assert_array_equal(upper[name], [own["bits_per_weight"], own["distortion"]])
        np.testing.assert_allclose(lower[name], [own["bits_per_weight"], own["gap_db"]], rtol=1e-12)
    rates, bound = upper["bound $4^{-R}$"]
    np.testing.assert_allclose(bound, 0.25**rates)
    assert figure.axes[0].get_yscale() == "log"


def test_rate_distortion_leaves_out_what_has_no_distortion(run: Run) -> None:
    frame = run.frames["rate_distortion.csv"]
    fp16 = frame.iloc[:1].assign(quantizer="fp16", bits_per_weight=16.0, distortion=0.0, gap_db=math.nan)
    assert "fp16" not in lines(rate_distortion.figure(pd.concat([frame, fp16])), 0)
    rounded = fp16.assign(distortion=4e-8, gap_db=22.0)
    assert "fp16" not in lines(rate_distortion.figure(pd.concat([frame, rounded])), 0)
    exact = frame.iloc[:1].assign(quantizer="tcq-9", bits_per_weight=9.0, distortion=0.0, gap_db=math.nan)
    assert max(lines(rate_distortion.figure(pd.concat([frame, exact])), 0)["tcq"][0]) < 9
    with pytest.raises(ValueError, match=r"rate_distortion\.csv: column 'distortion'"):
        rate_distortion.figure(fp16)


def test_rate_distortion_draws_groups_published_points_and_the_scalar_limit(run: Run) -> None:
    frame = run.frames["rate_distortion.csv"]
    rows = [("int-3-g64", 3.25, 0.06), ("int-4-g64", 4.25, 0.011), ("int-3-g128-asym", 3.15, 0.046)]
    more = pd.DataFrame(rows, columns=["quantizer", "bits_per_weight", "distortion"])
    published = pd.DataFrame(
        {
            "quantizer": ["tcq-3", "tcq-4", "nuq-15"],
            "bits_per_weight": [3.0, 4.0, 15.0],
            "distortion": [0.02, 0.006, 1e-8],
        }
    )
    figure = rate_distortion.figure(pd.concat([frame, more]), published)
    upper, lower = lines(figure, 0), lines(figure, 1)
    np.testing.assert_array_equal(upper["_published tcq"], [[3.0, 4.0], [0.02, 0.006]])
    np.testing.assert_allclose(lower["_published tcq"][1], 10 * np.log10([0.02 * 4**3, 0.006 * 4**4]))
    assert "_published nuq" not in upper  # beyond the measured rates
    drawn = [np.asarray(line.get_xydata()).tolist() for line in figure.axes[0].lines]
    assert [[3.25, 0.06], [4.25, 0.011]] in drawn  # one curve a group size
    assert [[3.15, 0.046]] in drawn
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(texts) == len(set(texts))
    assert {"published", "int", "entropy-coded scalar"} <= set(texts)
    rates, limit = upper["entropy-coded scalar"]
    assert (limit > 4.0**-rates).all()
    assert (limit < 1.43 * 4.0**-rates).all()  # 1.53 dB


def test_bit_map_cells_are_bits_and_strips_are_families(run: Run) -> None:
    frame = figures.mapped_assignments(run)
    figure = bit_map.figure(frame)
    for panel, plan in enumerate((MIXED, MIXED_LARGE)):
        axes = figure.axes[panel]
        assert axes.get_title(loc="left") == plan
        mesh = next(item for item in axes.collections if isinstance(item, QuadMesh))
        grid = np.asarray(mesh.get_array()).reshape(7, 3)
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert names == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        own = frame[frame["plan"] == plan]
        for layer, bits, quantizer in zip(own["layer"], own["bits_per_weight"], own["quantizer"], strict=True):
            row, column = names.index(layer.split(".")[-1]), int(layer.split(".")[2])
            assert grid[row, column] == pytest.approx(bits)
            strip = next(p for p in axes.patches if p.get_x() == column - 0.5 and row < p.get_y() < row + 0.5)
            expected = style.FAMILY_COLORS["half-tcq" if quantizer.startswith("half") else "tcq"]
            assert to_hex(strip.get_facecolor()) == expected
            assert any(
                text.get_text() == f"{bits:.3g}" and text.get_position() == (column, pytest.approx(row - 0.06))
                for text in axes.texts
            )


def test_bit_map_counts_bytes_not_nominal_rates(run: Run) -> None:
    frame = figures.mapped_assignments(run).set_index(["plan", "layer"])
    written = run.frames["quantization.csv"].set_index(["plan", "layer"])["storage_bytes"]
    key = (MIXED, "model.layers.0.self_attn.q_proj")
    assert frame.loc[key, "bits_per_weight"] == 8 * written[key] / (576 * 576)


def test_bit_map_of_experts_is_their_mean_and_wide_maps_have_no_text() -> None:
    experts = pd.DataFrame(
        {
            "plan": "p",
            "layer": [f"model.layers.{b}.mlp.experts.{e}.up_proj" for b in range(60) for e in (0, 1)],
            "quantizer": "tcq-3",
            "bits_per_weight": [2.0, 4.0] * 60,
        }
    )
    axes = bit_map.figure(experts).axes[0]
    mesh = next(item for item in axes.collections if isinstance(item, QuadMesh))
    np.testing.assert_array_equal(np.asarray(mesh.get_array()).ravel(), 3.0)
    assert not axes.texts
    with pytest.raises(ValueError, match="no layer inside a block"):
        bit_map.figure(experts.assign(layer="lm_head"))


def test_pareto_separates_mixed_and_uniform(run: Run) -> None:
    frame = run.frames["pareto.csv"].sort_values("budget_bits_per_weight")
    figure = pareto.figure(frame)
    predicted, measured = lines(figure, 0), lines(figure, 1)
    mixed, uniform = frame[frame["solver"] == "exact"], frame[frame["solver"] == "uniform"]
    np.testing.assert_array_equal(predicted["mixed"], [mixed["budget_bits_per_weight"], mixed["predicted_loss"]])
    np.testing.assert_array_equal(predicted["lower bound"], [mixed["budget_bits_per_weight"], mixed["lower_bound"]])
    np.testing.assert_array_equal(
        predicted["uniform tcq"], [uniform["budget_bits_per_weight"], uniform["predicted_loss"]]
    )
    known = mixed.dropna(subset="measured_kl")
    np.testing.assert_array_equal(measured["mixed"], [known["budget_bits_per_weight"], known["measured_kl"]])
    bars = next(c for c in figure.axes[1].containers if c.get_label() == "mixed").lines[2][0].get_segments()
    for (low, high), (_, row) in zip(bars, known.iterrows(), strict=True):
        assert high[1] - low[1] == pytest.approx(2 * row["measured_kl_se"])
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}


def test_pareto_without_measurements_says_so(run: Run) -> None:
    frame = run.frames["pareto.csv"].assign(measured_kl=math.nan)
    assert words(pareto.figure(frame), 1) == ["not measured"]


def test_sensitivity_panels_hold_their_type(run: Run) -> None:
    frame = run.frames["layers.csv"]
    figure = sensitivity.figure(frame)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for panel, name in enumerate(titles):
        own = frame[frame["layer"].str.endswith(name)]
        np.testing.assert_array_equal(lines(figure, panel)[name], [range(3), own["sensitivity"]])
    with pytest.raises(ValueError, match=r"layers\.csv: column 'sensitivity'"):
        sensitivity.figure(frame.assign(sensitivity=math.nan))


def test_method_table_is_spearman_and_median_ratio() -> None:
    check = pd.DataFrame(
        {
            "layer": list("abcde"),
            "quantizer": "tcq-3",
            "distortion": 0.01,
            "measured_loss": [1.0, 2.0, 3.0, 4.0, 5.0],
            "measured_loss_se": 0.1,
            "good": [2.0, 4.0, 6.0, 8.0, 10.0],
            "swapped": [2.0, 1.0, 3.0, 5.0, 4.0],
            "good_se": 0.0,
        }
    )
    table = sensitivity.method_table(check).set_index("method")
    assert list(table.index) == ["good", "swapped"]  # standard errors are no method
    # rho = 1 - 6 sum d^2 / (n (n^2 - 1)); two swapped neighbours: sum d^2 = 4
    assert table["spearman"].tolist() == pytest.approx([1.0, 1 - 6 * 4 / (5 * 24)])
    assert table["median_ratio"].tolist() == pytest.approx([2.0, 1.0])
    assert table["within_25_percent"].tolist() == pytest.approx([0.0, 0.6])  # 2, 0.5, 1, 1.25, 0.8


def test_check_figure_draws_points_and_counts_what_it_cannot(run: Run) -> None:
    check = run.frames["sensitivity_check.csv"].copy()
    check.loc[3, "measured_loss"] = -1e-5
    figure = sensitivity.check_figure(check)
    drawn = check[check["measured_loss"] > 0]
    for panel, name in enumerate(("noise", "fisher")):
        assert figure.axes[panel].get_title(loc="left") == name
        np.testing.assert_array_equal(lines(figure, panel)["tcq"], [drawn[name], drawn["measured_loss"]])
        note = words(figure, panel)[-1]
        assert f"Spearman {sensitivity.method_table(check)['spearman'][panel]:.3f}" in note
        assert "1 at or below 0 not drawn" in note
    with pytest.raises(ValueError, match="no column of a method"):
        sensitivity.check_figure(check[list(sensitivity.CHECK_COLUMNS)])


def test_predicted_against_measured(run: Run) -> None:
    table = plans.headline(run)
    figure = predicted_measured.figure(table)
    for panel, column in enumerate(("loss_increase", "kl")):
        drawn = lines(figure, panel)
        for kind in ("mixed", "uniform"):
            own = table[table["kind"] == kind]
            np.testing.assert_array_equal(drawn[kind], [own["predicted_loss"], own[column]])
        assert words(figure, panel) == [MIXED, MIXED_LARGE, UNIFORM]
        band = next(item for item in figure.axes[panel].collections if isinstance(item, PolyCollection))
        x, y = band.get_paths()[0].vertices.T
        ratios = (x / y)[y > 0]
        assert ratios.min() == pytest.approx(0.75)
        assert ratios.max() == pytest.approx(1.25)
    with pytest.raises(ValueError, match=r"summary\.csv: column 'predicted_loss'"):
        predicted_measured.figure(table.assign(predicted_loss=math.nan))


def test_kurtosis_and_ratio_draw_every_layer_in_the_same_place(run: Run) -> None:
    frame = run.frames["gaussianity.csv"]
    drawn = lines(gaussianity.figure(frame), 0)
    for label, column in (("before rotation", "kurtosis_before"), ("after rotation", "kurtosis_after")):
        np.testing.assert_array_equal(drawn[label][1], frame[column])
        assert len(set(drawn[label][0])) == len(frame)
    ratios = run.frames["layer_distortion.csv"]
    figure = gaussianity.ratio_figure(ratios)
    for name in ("tcq", "half-tcq"):
        own = ratios[ratios["quantizer"].str.startswith(f"{name}-")]
        np.testing.assert_array_equal(lines(figure, 0)[name][1], own["ratio"])
    assert words(figure, 0) == ["0 down_proj"]  # the one layer that the fabricated run moves off the table
    worst = gaussianity.worst_layers(ratios, 3)
    assert worst["layer"].is_unique
    assert (worst["ratio"].iloc[0] - 1) == pytest.approx((ratios["ratio"] - 1).abs().max())


def test_stage_bars_are_seconds() -> None:
    figure = stage_times.figure({"rotate": 3.0, "quantize": 250.0})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 250.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rotate", "quantize"]
    assert words(figure, 0) == ["3.00\u00a0s", "4\u00a0min 10\u00a0s"]
    with pytest.raises(ValueError, match=r"run\.json: no field 'seconds'"):
        stage_times.figure({})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.001, 1.0, [0.001, 0.01, 0.1, 1.0]), (0.04, 0.6, [0.05, 0.1, 0.2, 0.5])],
)
def test_log_ticks_are_plain_numbers(low: float, high: float, expected: list[float]) -> None:
    axes = style.new_figure(2.0).subplots()
    axes.set_yscale("log")
    style.log_ticks(axes.yaxis, low, high)
    np.testing.assert_allclose(axes.yaxis.get_majorticklocs(), expected)
    assert [axes.yaxis.get_major_formatter()(value) for value in expected] == [f"{value:g}" for value in expected]


def test_log_ticks_of_a_narrow_range_are_even() -> None:
    axes = style.new_figure(2.0).subplots()
    axes.set_yscale("log")
    style.log_ticks(axes.yaxis, 1.0, 1.25)
    ticks = axes.yaxis.get_majorticklocs()
    assert len(ticks) >= 3
    assert 1.0 / 1.15 <= ticks.min() <= ticks.max() <= 1.25 * 1.15
    np.testing.assert_allclose(np.diff(ticks), np.diff(ticks)[0])


def test_families_have_one_look() -> None:
    names = {"half-tcq-3.25": "half-tcq", "tcq-4": "tcq", "fp16": "fp16", "int-4-g128": "int", "nuq-2.5": "nuq"}
    assert {name: style.family(name) for name in names} == names
    assert len({style.family_color(name) for name in ("tcq", "half-tcq", "vq", "nuq", "int", "fp16")}) == 6
    assert style.family_color("unheard-of") == style.family_color("unheard-of") in style.SPARE_COLORS


def test_svg_is_inline_alone_and_repeatable(run: Run) -> None:
    first, second = (style.svg(rate_distortion.figure(run.frames["rate_distortion.csv"]), "rd", "a < b") for _ in "ab")
    assert first == second
    assert first.startswith('<svg role="img" aria-label="a &lt; b"')
    assert first.endswith("</svg>")
    for word in ("http", "<?xml", "DOCTYPE", "metadata"):
        assert word not in first
    ids = [part.split('"')[0] for part in first.split('id="')[1:]]
    assert ids
    assert all(name.startswith("rd-") for name in ids)
    used = {part.split(")")[0] for part in first.split("url(#")[1:]}
    assert used
    assert used <= set(ids)


def test_drawing_changes_no_global_setting(run: Run) -> None:
    before = dict(matplotlib.rcParams)
    style.svg(pareto.figure(run.frames["pareto.csv"]), "pareto", "")
    figures.draw(run)
    assert dict(matplotlib.rcParams) == before


def test_every_table_has_its_figure(run: Run) -> None:
    others = {"sensitivity", "predicted_measured", "bit_map", "stages"}
    assert set(figures.draw(run)) == {*figures.FROM_TABLE, *others}


def test_every_figure_becomes_three_files(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    for file in ("pareto.csv", "run.json"):
        (tmp_path / "run" / file).write_bytes((run.folder / file).read_bytes())
    assert figures.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"{name}.{kind}" for name in ("pareto", "stages") for kind in ("pdf", "png", "svg")}
    assert (tmp_path / "out" / "pareto.pdf").read_bytes().startswith(b"%PDF")
    assert len(capsys.readouterr().out.splitlines()) == len(written)
    assert figures.main([str(tmp_path / "nowhere"), str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_analysis_imports_neither_torch_nor_pyplot() -> None:
    for path in (Path(figures.__file__).parent).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "torch" or "pyplot" in name], path
