"""The report: valid, self-contained HTML with the numbers of the artifacts; absences are named, bad files refused."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from test_analysis_run_folder import MIXED, MIXED_LARGE, NEAREST, TOKENS, UNIFORM, WINDOWS, fabricate

from analysis import headline, numbers, plans, report
from analysis.artifacts import BY_FILE, read_run
from analysis.collect import collect
from analysis.collect import main as collect_main

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Checked(HTMLParser):
    """Every tag is closed in order; ids, references and words are kept."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.references += [value or "" for name, value in attrs if name in ("href", "xlink:href", "src", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parse(html: str) -> Checked:
    parser = Checked()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return parser


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fabricate(tmp_path / "run", blocks=2)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def html(shared: Path) -> str:
    path = report.write_report(shared)
    assert path == shared / "report.html"
    assert not list(shared.glob("*.partial"))
    return path.read_text(encoding="utf-8")


def test_html_is_well_formed_and_alone(html: str) -> None:
    page = parse(html)
    assert html.startswith("<!DOCTYPE html>")
    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith("#") and reference[1:] in page.ids for reference in page.references)
    assert not page.tags & {"script", "link", "iframe", "img", "object", "base"}
    for word in ("http:", "https:", "@import", "url(//", "src="):
        assert word not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert html.count("<svg ") == 9
    assert "missing" not in re.findall(r'class="([^"]*)"', html)


def test_headline_numbers_are_those_of_the_summary(html: str, shared: Path) -> None:
    page = parse(html)
    cells = set(page.words)
    for _, row in pd.read_csv(shared / "summary.csv").iterrows():
        assert row["plan"] in cells
        assert f"{row['bits_per_weight']:.3f}" in cells
        assert f"{row['memory_bytes'] / 1e6:.2f}\u00a0MB" in cells
        assert f"{row['perplexity']:.2f}" in cells
        assert numbers.with_error(row["kl"], row["kl_se"]) in cells
        assert numbers.with_error(row["loss_increase"], row["loss_increase_se"]) in cells
    whole = " ".join(page.words)
    assert "stored as GGUF Q4_1" in whole
    assert "python -m experiments.pipeline budget.bits_per_weight=4.0 seed=0" in whole
    assert "2.50\u00a0GB" not in whole  # below 10 GB sizes are in MB
    assert "2,500.00\u00a0MB" in whole


def test_certificate_is_that_of_the_allocation(html: str, shared: Path) -> None:
    words = parse(html).words
    for plan in (MIXED, MIXED_LARGE):
        content = json.loads((shared / "plans" / plan / "allocation.json").read_text())
        assert f"{content['objective']:.10g} nats/token" in words
        size, budget = content["costs"]["memory_bytes"], content["budgets"]["memory_bytes"]
        assert f"{size:,} bytes of a budget of {budget:,} ({100 * size / budget:.3f}\u00a0%)" in words
    assert "optimal" in words


def test_every_layer_of_every_plan_is_listed(html: str, shared: Path) -> None:
    words = parse(html).words
    frame = pd.read_csv(shared / "quantization.csv")
    for layer, rows in frame.groupby("layer"):
        assert words.count(layer) >= len(rows)
    assert {f"{value:,}" for value in frame["storage_bytes"]} <= set(words)


def test_kinds_come_from_the_layers(shared: Path) -> None:
    assert plans.kinds(read_run(shared)) == {
        "reference": "original",
        MIXED: "mixed",
        MIXED_LARGE: "mixed",
        UNIFORM: "uniform",
        NEAREST: "round to nearest",
    }


def test_comparison_is_paired_over_windows(shared: Path) -> None:
    table = plans.comparisons(read_run(shared)).set_index("rival")
    windows = pd.read_csv(shared / "evaluation.csv").pivot(index="window", columns="plan", values="kl")
    summary = pd.read_csv(shared / "summary.csv").set_index("plan")
    for rival in (UNIFORM, NEAREST):
        own = table.loc[rival]
        difference = windows[own["plan"]] - windows[rival]
        assert own["difference"] == pytest.approx(difference.mean())
        # s.e. of a mean: sqrt(sum of squares about it / (n (n - 1)))
        spread = ((difference - difference.mean()) ** 2).sum() / (WINDOWS * (WINDOWS - 1))
        assert own["difference_se"] == pytest.approx(math.sqrt(spread))
        bytes_of = summary["memory_bytes"]
        assert own["extra_bytes"] == pytest.approx(bytes_of[own["plan"]] / bytes_of[rival] - 1)
        nearest = min((MIXED, MIXED_LARGE), key=lambda plan: abs(bytes_of[plan] / bytes_of[rival] - 1))
        assert own["plan"] == nearest


def test_sentence_says_more_less_and_noise(folder: Path) -> None:
    frame, windows = pd.read_csv(folder / "summary.csv"), pd.read_csv(folder / "evaluation.csv")
    frame.loc[frame["plan"] == MIXED, "memory_bytes"] = frame.loc[frame["plan"] == UNIFORM, "memory_bytes"].item()
    frame.to_csv(folder / "summary.csv", index=False)
    kl = frame.set_index("plan")["kl"]
    text = headline.sentence(read_run(folder))
    change = 1 - kl[MIXED] / kl[UNIFORM]
    assert f"{100 * change:.1f}\u00a0% less than the uniform plan {UNIFORM} of the same bytes" in text
    frame.assign(kl=frame["kl"].where(frame["plan"] != MIXED, 2 * kl[UNIFORM])).to_csv(folder / "summary.csv")
    assert f"100.0\u00a0% more than the uniform plan {UNIFORM}" in headline.sentence(read_run(folder))
    # the same mean difference with a spread that drowns it
    for window in range(WINDOWS):
        windows.loc[(windows["plan"] == UNIFORM) & (windows["window"] == window), "kl"] = 0.1 * (1 + (-1) ** window)
        windows.loc[(windows["plan"] == MIXED) & (windows["window"] == window), "kl"] = 0.1
    windows.to_csv(folder / "evaluation.csv", index=False)
    assert "within the noise" in headline.sentence(read_run(folder))
    assert int(windows["tokens"].iloc[0]) == TOKENS


def test_sentence_compares_at_the_uniform_plans_bytes(folder: Path) -> None:
    frame = pd.read_csv(folder / "summary.csv").set_index("plan")
    frame.loc[MIXED, "memory_bytes"] = 1.05 * frame.loc[UNIFORM, "memory_bytes"]
    frame.loc[MIXED_LARGE, "memory_bytes"] = frame.loc[UNIFORM, "memory_bytes"]
    frame.to_csv(folder / "summary.csv")
    text = headline.sentence(read_run(folder))
    assert text.startswith(f"At {frame.loc[MIXED, 'bits_per_weight']:.3f} bits per weight the mixed plan {MIXED}")
    assert f"The mixed plan {MIXED_LARGE} loses" in text
    assert f"the uniform plan {UNIFORM} of the same bytes" in text


SILENT = {"quantizers.csv", "storage.csv"}  # tables of the allocator, shown through the plans
HALF = {"evaluation.csv", "layers.csv", "layer_distortion.csv", "pareto.csv", "quantizers.csv"}


@pytest.mark.parametrize("gone", [HALF, set(BY_FILE) - HALF], ids=["evaluation", "summary"])
def test_absent_tables_are_named_with_their_command(folder: Path, gone: set[str]) -> None:
    for file in gone:
        (folder / file).unlink()
    html = report.render(read_run(folder))
    parse(html)
    for file in sorted(BY_FILE):
        named = f"<code>{file}</code> is not in this run folder; <code>{BY_FILE[file].command}</code> makes it"
        assert (named in html) == (file in gone - SILENT), file


def test_a_folder_with_one_table_still_has_a_report(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "quantizers.csv").write_bytes((folder / "quantizers.csv").read_bytes())
    html = report.write_report(bare).read_text()
    parse(html)
    for file in sorted(set(BY_FILE) - SILENT - {"evaluation.csv"}):
        assert f"<code>{file}</code> is not in this run folder" in html
    for file in ("run.json", "plans/NAME/allocation.json"):
        assert f"<code>{file}</code> is not in this run folder" in html


def test_a_damaged_artifact_leaves_the_old_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    before = (folder / "report.html").read_bytes()
    frame = pd.read_csv(folder / "summary.csv")
    frame.drop(columns="kl").to_csv(folder / "summary.csv", index=False)
    assert report.main([str(folder)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "summary.csv" in message
    assert "'kl'" in message
    assert message.count("\n") == 1
    assert (folder / "report.html").read_bytes() == before


def test_names_are_escaped(folder: Path) -> None:
    info = json.loads((folder / "run.json").read_text())
    info["config"]["model"]["name"] = "<script>alert(1)</script>"
    (folder / "run.json").write_text(json.dumps(info))
    html = report.render(read_run(folder))
    assert "script" not in parse(html).tags
    assert "<script>alert(1)</script>" in unescape(html)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"reference": "GGUF Q4_1"}, "quantized once before"),
        ({"reference": "bfloat16"}, "stored as bfloat16"),
        ({"reference": "torch.float16"}, "original checkpoint"),
        ({}, "does not say"),
    ],
)
def test_reference_is_stated(info: dict[str, str], expected: str) -> None:
    assert expected in report.reference(info)


def test_model_name_falls_back_to_the_path() -> None:
    assert report.model_name({"config": {"model": {"path": "org/name-1B/"}}}) == "name-1B"
    assert report.model_name({}) == "Unnamed model"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.with_error(0.15234, 0.00412), "0.1523 \u00b1 0.0041"),
        (numbers.with_error(-3.14159, 0.0999), "\u22123.14 \u00b1 0.10"),
        (numbers.with_error(12.0, math.nan), "12.00"),
        (numbers.with_error(None, 1.0), numbers.DASH),
        (numbers.significant(1.2e-11), "1.20\u00a0\u00d7\u00a010\u207b\u00b9\u00b9"),
        (numbers.significant(0.99996, 4), "1.000"),
        (numbers.significant(0.0), "0"),
        (numbers.fixed(-1234.5, 1), "\u22121,234.5"),
        (numbers.size(53_184_000), "53.18\u00a0MB"),
        (numbers.size(12), "12\u00a0B"),
        (numbers.percent(0.4312), "43.1\u00a0%"),
        (numbers.duration(372.4), "6\u00a0min 12\u00a0s"),
        (numbers.duration(61.5), "61.5\u00a0s"),
        (numbers.duration(0.021), "21\u00a0ms"),
        (numbers.count(math.nan), numbers.DASH),
    ],
)
def test_numbers_as_a_reader_sees_them(text: str, expected: str) -> None:
    assert text == expected


def test_collect_joins_runs_with_their_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 0), ("b/c", 1)):
        fabricate(tmp_path / name, blocks=1, seed=seed)
    (tmp_path / "b" / "c" / "run.json").unlink()
    table = collect(tmp_path)
    assert list(dict.fromkeys(table["run"])) == ["a", "b/c"]
    for name in ("a", "b/c"):
        own = table[table["run"] == name].reset_index(drop=True)
        raw = pd.read_csv(tmp_path / name / "summary.csv")
        pd.testing.assert_series_equal(own["kl"], raw["kl"])
    assert set(table.loc[table["run"] == "a", "override.budget.bits_per_weight"]) == {"4.0"}
    assert table.loc[table["run"] == "b/c", "override.budget.bits_per_weight"].isna().all()
    assert len(collect(tmp_path, "pareto.csv")) == 2 * 7
    assert collect_main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("\n") == len(table) + 1


def test_collect_refuses_what_it_cannot_collect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"cannot collect 'layers\.csv'"):
        collect(tmp_path, "layers.csv")
    with pytest.raises(FileNotFoundError, match=r"no summary\.csv"):
        collect(tmp_path)
    assert collect_main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
