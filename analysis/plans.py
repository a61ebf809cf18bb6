"""What a run's plans are and how they compare: kinds, layers, the headline and the paired comparisons.

A plan is `mixed`, or `uniform` (one quantizer for all layers but those in 16 bits), or `round to nearest` (uniform, of
the family `rtn` or `int`), or the `original`. Two plans are compared on the *difference* of their KL on the same
windows: its standard error is sd / sqrt(n), far below that of either plan, because windows differ more than plans."""

from __future__ import annotations

import math

import pandas as pd

from analysis.artifacts import Run
from analysis.style import FAMILY_COLORS, family

ORIGINAL, MIXED, UNIFORM, NEAREST = "original", "mixed", "uniform", "round to nearest"
REFERENCE = "reference"  # the original's name in evaluation.csv and summary.csv
NEAREST_FAMILIES = {"rtn", "int"}
COMPARABLE = 0.15  # plans whose bytes differ by more are no comparison
SAME_BYTES = 0.005


def assignments(run: Run) -> pd.DataFrame:
    """One row per plan and layer: plan, layer, quantizer, bits_per_weight, storage_bytes, from the allocations and
    quantization.csv. Bytes are those written, else those of storage.csv; bits are bytes over weights where both are
    known, else the rate of quantizers.csv, else NaN."""
    rows = [
        (plan, layer, choice["quantizer"])
        for plan, content in run.allocations.items()
        for layer, choice in content["layers"].items()
    ]
    result = pd.DataFrame(rows, columns=["plan", "layer", "quantizer"])
    written = run.frames.get("quantization.csv")
    if written is not None:
        other = written[~written["plan"].isin(result["plan"])]
        result = pd.concat([result, other[["plan", "layer", "quantizer"]]], ignore_index=True)
        known = written[["plan", "layer", "quantizer", "storage_bytes"]]
        result = result.merge(known, on=["plan", "layer", "quantizer"], how="left")
    else:
        result["storage_bytes"] = math.nan
    if "storage.csv" in run.frames:
        table = run.frames["storage.csv"][["layer", "quantizer", "bytes"]]
        result = result.merge(table, on=["layer", "quantizer"], how="left")
        result["storage_bytes"] = result["storage_bytes"].fillna(result.pop("bytes"))
    result["bits_per_weight"] = math.nan
    if "layers.csv" in run.frames:
        layers = run.frames["layers.csv"].set_index("layer")
        weights = result["layer"].map(layers["out_features"] * layers["in_features"])
        result["bits_per_weight"] = 8 * result["storage_bytes"] / weights
    if "quantizers.csv" in run.frames:
        rates = run.frames["quantizers.csv"].set_index("quantizer")["bits_per_weight"]
        result["bits_per_weight"] = result["bits_per_weight"].fillna(result["quantizer"].map(rates))
    return result


def kinds(run: Run) -> dict[str, str]:
    """Plan -> kind, for every plan of the run: from its layers where they are known, else from its name."""
    choices = assignments(run)
    names = [*dict.fromkeys(choices["plan"]), REFERENCE]
    for file in ("summary.csv", "evaluation.csv"):
        if file in run.frames:
            names += list(dict.fromkeys(run.frames[file]["plan"]))
    used = {str(plan): set(own) - {"fp16"} for plan, own in choices.groupby("plan")["quantizer"]}
    return {plan: _kind(plan, used.get(plan, set())) for plan in dict.fromkeys(names)}


def _kind(plan: str, quantizers: set[str]) -> str:
    if plan in (REFERENCE, ORIGINAL):
        return ORIGINAL
    if len(quantizers) > 1:
        return MIXED
    only = family(next(iter(quantizers), plan))
    if only in NEAREST_FAMILIES:
        return NEAREST
    return UNIFORM if quantizers or only in FAMILY_COLORS else MIXED


def headline(run: Run) -> pd.DataFrame:
    """summary.csv with the columns `kind`, `ratio` (predicted loss over measured loss increase) and `ratio_se` (the
    measured one's error, to first order); original first, then mixed, uniform, round to nearest, each by bytes."""
    kind = kinds(run)
    frame = run.frames["summary.csv"].copy()
    frame["kind"] = frame["plan"].map(kind)
    real = frame["loss_increase"] > 0
    frame["ratio"] = (frame["predicted_loss"] / frame["loss_increase"]).where(real)
    frame["ratio_se"] = frame["ratio"] * frame["loss_increase_se"] / frame["loss_increase"]
    rank = frame["kind"].map({ORIGINAL: 0, MIXED: 1, UNIFORM: 2, NEAREST: 3})
    return frame.assign(rank=rank).sort_values(["rank", "memory_bytes"], kind="stable").drop(columns="rank")


def main_plan(run: Run) -> str | None:
    """The plan that the report is about: the first mixed plan of summary.csv, else of the allocations."""
    kind = kinds(run)
    names = list(run.frames["summary.csv"]["plan"]) if "summary.csv" in run.frames else []
    return next((plan for plan in [*names, *run.allocations] if kind[plan] == MIXED), None)


def comparisons(run: Run) -> pd.DataFrame:
    """One row per plan that is not mixed (the rival): the mixed plan nearest to it in bytes, within 15 %.

    Columns: plan, rival, kind, extra_bytes (plan over rival, minus 1), kl, rival_kl, windows, difference, difference_se
    (plan minus rival, paired over windows; NaN where evaluation.csv lacks the same windows of both)."""
    columns = ["plan", "rival", "kind", "extra_bytes", "kl", "rival_kl", "windows", "difference", "difference_se"]
    frame = headline(run)
    mixed = frame[frame["kind"] == MIXED]
    windows = run.frames.get("evaluation.csv")
    rows = []
    for _, rival in frame[frame["kind"].isin([UNIFORM, NEAREST])].iterrows():
        extra = mixed["memory_bytes"] / rival["memory_bytes"] - 1
        if extra.empty or extra.abs().min() > COMPARABLE:
            continue
        plan = mixed.loc[extra.abs().idxmin()]
        count, difference, error = _paired(windows, str(plan["plan"]), str(rival["plan"]))
        rows.append(
            {
                "plan": plan["plan"],
                "rival": rival["plan"],
                "kind": rival["kind"],
                "extra_bytes": extra.abs().min() * (1 if plan["memory_bytes"] >= rival["memory_bytes"] else -1),
                "kl": plan["kl"],
                "rival_kl": rival["kl"],
                "windows": count,
                "difference": difference,
                "difference_se": error,
            }
        )
    return pd.DataFrame(rows, columns=columns)


def _paired(windows: pd.DataFrame | None, plan: str, rival: str) -> tuple[int, float, float]:
    """(windows, mean KL difference, its standard error); NaN where the two do not share their windows."""
    if windows is None:
        return 0, math.nan, math.nan
    first, second = (windows[windows["plan"] == name].set_index("window")["kl"] for name in (plan, rival))
    if first.empty or set(first.index) != set(second.index) or not first.index.is_unique or not second.index.is_unique:
        return 0, math.nan, math.nan
    difference = first - second
    return (
        len(difference),
        float(difference.mean()),
        float(difference.to_numpy().std(ddof=1)) / math.sqrt(len(difference)),
    )
