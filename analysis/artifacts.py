"""The artifacts of a run folder, read and checked once, at the boundary (formats: docs/architecture.md).

A table is a CSV file with a header row; unknown extra columns are kept. A number is finite; it may be missing only
where the format says so (an embedding has no sensitivity, a plan that was not run has no measured KL). A bad file is
one ValueError that names the file, the column, and the first bad row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A CSV file: columns of text, of numbers, of numbers that may be empty, and the command that writes the file.
    `nonnegative` are the columns that are counts, bytes, rates, errors or energies."""

    file: str
    command: str
    text: tuple[str, ...]
    numbers: tuple[str, ...]
    sparse: tuple[str, ...] = ()
    nonnegative: tuple[str, ...] = ()


PIPELINE = "python -m experiments.pipeline"
MEASURE = "python -m experiments.measure_distortion"

ARTIFACTS = (
    Artifact(
        file="layers.csv",
        command="python -m experiments.inventory",
        text=("layer", "fusion_group"),
        numbers=("out_features", "in_features"),
        sparse=("sensitivity",),
        nonnegative=("out_features", "in_features"),
    ),
    Artifact(
        file="quantizers.csv",
        command=MEASURE,
        text=("quantizer",),
        numbers=("bits_per_weight", "codebook_bytes", "distortion"),
        nonnegative=("bits_per_weight", "codebook_bytes", "distortion"),
    ),
    Artifact(
        file="storage.csv",
        command=PIPELINE,
        text=("layer", "quantizer"),
        numbers=("bytes",),
        nonnegative=("bytes",),
    ),
    Artifact(
        file="gaussianity.csv",
        command=PIPELINE,
        text=("layer",),
        numbers=("kurtosis_before", "kurtosis_after", "norm_error", "inverse_error"),
        nonnegative=("norm_error", "inverse_error"),
    ),
    Artifact(
        file="layer_distortion.csv",
        command=PIPELINE,
        text=("layer", "quantizer"),
        numbers=("distortion", "gaussian_distortion", "ratio"),
        nonnegative=("distortion", "gaussian_distortion", "ratio"),
    ),
    Artifact(
        file="rate_distortion.csv",
        command=MEASURE,
        text=("quantizer",),
        numbers=("bits_per_weight", "distortion"),
        sparse=("standard_error", "weights", "state_bits", "gap_db"),
        nonnegative=("bits_per_weight", "distortion", "standard_error"),
    ),
    Artifact(
        file="sensitivity_check.csv",
        command=PIPELINE,
        text=("layer", "quantizer"),
        numbers=("distortion", "measured_loss"),
        sparse=("measured_loss_se",),
        nonnegative=("distortion", "measured_loss_se"),
    ),
    Artifact(
        file="quantization.csv",
        command="python -m experiments.quantize",
        text=("plan", "layer", "quantizer"),
        numbers=("storage_bytes", "distortion"),
        sparse=("seconds",),
        nonnegative=("storage_bytes", "distortion", "seconds"),
    ),
    Artifact(
        file="evaluation.csv",
        command="python -m experiments.evaluate",
        text=("plan",),
        numbers=("window", "tokens", "loss", "kl"),
        nonnegative=("tokens",),
    ),
    Artifact(
        file="summary.csv",
        command=PIPELINE,
        text=("plan",),
        numbers=("bits_per_weight", "memory_bytes", "perplexity", "kl"),
        sparse=(
            "disk_bytes",
            "kl_se",
            "loss_increase",
            "loss_increase_se",
            "predicted_loss",
            "lower_bound",
            "seconds",
        ),
        nonnegative=("bits_per_weight", "memory_bytes", "disk_bytes", "kl_se", "loss_increase_se"),
    ),
    Artifact(
        file="pareto.csv",
        command="python -m experiments.pareto run=RUN_FOLDER",
        text=("plan", "solver"),
        numbers=("budget_bits_per_weight", "memory_bytes", "predicted_loss"),
        sparse=("lower_bound", "measured_kl", "measured_kl_se"),
        nonnegative=("budget_bits_per_weight", "memory_bytes", "predicted_loss", "measured_kl_se"),
    ),
)
BY_FILE = {artifact.file: artifact for artifact in ARTIFACTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder in memory. `frames`: file name -> table, absent files absent; `allocations`: plan -> its
    allocation.json; `info`: run.json, empty where absent; `seconds`: stage -> seconds."""

    folder: Path
    frames: Mapping[str, pd.DataFrame]
    allocations: Mapping[str, dict[str, Any]]
    info: Mapping[str, Any]
    seconds: Mapping[str, float]


def read_table(path: Path, artifact: Artifact) -> pd.DataFrame:
    """One checked table. ValueError names the file and the column: missing column, empty text, not a finite number."""
    try:
        # -inf is the gap in dB of a distortion of zero: no number to draw
        frame = pd.read_csv(path, na_values=["-inf"], keep_default_na=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV table: {error}") from None
    names = (*artifact.text, *artifact.numbers, *artifact.sparse)
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{path}: no column {missing[0]!r}; the columns are {list(frame.columns)}, needed {list(names)}"
        )
    for name in artifact.text:
        _check(frame[name].notna(), frame[name], path, name, "text")
        frame[name] = frame[name].astype(str)
    for name in (*artifact.numbers, *artifact.sparse):
        values = pd.to_numeric(frame[name], errors="coerce").astype(float)
        empty = frame[name].isna() if name in artifact.sparse else pd.Series(False, index=frame.index)
        _check(values.abs().lt(math.inf) | empty, frame[name], path, name, "a finite number")
        if name in artifact.nonnegative:
            _check((values >= 0) | empty, frame[name], path, name, "a number that is not negative")
        frame[name] = values
    return frame


def _check(good: pd.Series, values: pd.Series, path: Path, column: str, accepted: str) -> None:
    if not good.all():
        row = int(np.flatnonzero(~good.to_numpy())[0])
        # + 2: the header is line 1
        raise ValueError(f"{path}: column {column!r}, line {row + 2}: {values.iloc[row]!r} is not {accepted}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. ValueError names the file."""
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_allocation(path: Path) -> dict[str, Any]:
    """allocation.json as a dictionary, with the fields of the certificate present; `lower_bound` and `gap` are None
    where the solver proves no bound. ValueError names file and field."""
    content = read_json(path)
    for name in ("status", "objective", "lower_bound", "gap", "costs", "budgets", "layers"):
        if name not in content:
            raise ValueError(f"{path}: no field {name!r}; the fields are {sorted(content)}")
    for name in ("objective", "lower_bound", "gap"):
        if content[name] is None and name != "objective":
            continue  # a solver without a bound writes null
        if not isinstance(content[name], int | float) or not math.isfinite(content[name]):
            raise ValueError(f"{path}: field {name!r}: {content[name]!r} is not a finite number")
    for layer, choice in content["layers"].items():
        if not isinstance(choice, dict) or not isinstance(choice.get("quantizer"), str):
            raise ValueError(f"{path}: field 'layers', layer {layer!r}: no quantizer in {choice!r}")
    return content


def read_run(folder: Path) -> Run:
    """Everything a run folder holds. FileNotFoundError where the folder is not there, ValueError where it holds none of
    the artifacts or a damaged one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected a run folder, which {PIPELINE} writes")
    frames = {a.file: read_table(folder / a.file, a) for a in ARTIFACTS if (folder / a.file).is_file()}
    plans = sorted((folder / "plans").glob("*/allocation.json"))
    if not frames and not plans:
        raise ValueError(f"{folder}: not a run folder: none of {', '.join(BY_FILE)} is there")
    info = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    return Run(
        folder=folder,
        frames=frames,
        allocations={path.parent.name: read_allocation(path) for path in plans},
        info=info,
        seconds=_stage_seconds(folder, info),
    )


def _stage_seconds(folder: Path, info: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per stage: `seconds` of run.json, or stages.json of a run that has not ended."""
    path, seconds = folder / "run.json", info.get("seconds")
    if seconds is None and (folder / "stages.json").is_file():
        path = folder / "stages.json"
        seconds = {name: stage.get("seconds") for name, stage in read_json(path).items()}
    for name, value in (seconds or {}).items():
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{path}: seconds of stage {name!r}: {value!r} is not a number of seconds")
    return {name: float(value) for name, value in (seconds or {}).items()}
