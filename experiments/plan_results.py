"""The stages that follow a plan: quantize, write and load back checkpoints, measure, compare with the prediction."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from alloc.solution import read_allocation
from experiments.progress import bar
from experiments.workspace import Workspace, settings, write_csv
from quantizers.checkpoint import LayerChoice, load_checkpoint, write_checkpoint
from quantizers.evaluation import evaluate, summarise

REFERENCE = "reference"


def plan_file(run: Workspace, plan: str) -> Path:
    """allocation.json of a plan."""
    return run.path(f"plans/{plan}/allocation.json")


def quantize_plans(run: Workspace, plans: list[str]) -> None:
    """checkpoints/NAME for every plan, quantization.csv and layer_distortion.csv."""
    for plan in plans:
        _quantize(run, plan)
    frames = [pd.read_csv(run.path(f"plans/{plan}/quantization.csv")).assign(plan=plan) for plan in plans]
    frame = pd.concat(frames, ignore_index=True)
    write_csv(frame[["plan", *frame.columns.drop("plan")]], run.path("quantization.csv"))
    gaussian = pd.read_csv(run.path("quantizers.csv"))[["quantizer", "distortion"]]
    layers = frame.drop_duplicates(["layer", "quantizer"])[["layer", "quantizer", "distortion"]]
    layers = layers.merge(gaussian.rename(columns={"distortion": "gaussian_distortion"}), on="quantizer")
    layers = layers[layers.gaussian_distortion > 0]
    layers["ratio"] = layers.distortion / layers.gaussian_distortion
    write_csv(layers, run.path("layer_distortion.csv"))


def _quantize(run: Workspace, plan: str) -> None:
    report, checkpoint = run.path(f"plans/{plan}/quantization.csv"), run.path(f"checkpoints/{plan}")

    def work() -> None:
        layers = read_allocation(plan_file(run, plan)).layers
        choices = {
            name: LayerChoice(quantizer=choice.quantizer, kernel=choice.kernel, fused_with=choice.fused_with)
            for name, choice in layers.items()
        }
        with bar(f"quantize {plan}") as progress:
            frame = write_checkpoint(
                checkpoint,
                run.loaded,
                choices,
                rotation_seed=run.cfg.rotation.seed,
                most_block=run.cfg.rotation.most_block,
                state_bits=run.cfg.state_bits,
                cache=Path(run.cfg.cache),
                progress=progress,
            )
        write_csv(frame, report)

    # the seconds and prices of allocation.json differ between runs; what is stored depends on the layers alone
    layers = {name: choice.quantizer for name, choice in read_allocation(plan_file(run, plan)).layers.items()}
    inputs = [run.source(), settings(run.cfg.rotation), run.cfg.state_bits, layers]
    run.stages.run(f"quantize {plan}", work, settings=inputs, writes=[report, checkpoint])


def evaluate_plans(run: Workspace, plans: list[str]) -> None:
    """evaluation.csv: the loaded checkpoints beside the reference, all on the same windows."""
    path = run.path("evaluation.csv")

    def work() -> None:
        with bar("load back") as progress:
            candidates = {}
            for done, plan in enumerate(plans):
                candidates[plan] = load_checkpoint(run.path(f"checkpoints/{plan}")).model
                progress(done + 1, len(plans), plan)
        with bar("evaluate") as progress:
            frame = evaluate(run.loaded.model, candidates, run.evaluation_windows(), progress=progress)
        write_csv(frame, path)

    configs = [run.path(f"checkpoints/{plan}/config.json") for plan in plans]
    inputs = [run.source(), settings(run.cfg.evaluation), plans, [path.read_text() for path in configs]]
    run.stages.run("evaluate", work, settings=inputs, writes=[path])


def summarise_plans(run: Workspace, plans: list[str]) -> pd.DataFrame:
    """summary.csv: predicted beside measured, one row per plan and one for the reference."""
    measured = summarise(pd.read_csv(run.path("evaluation.csv")))
    layers = pd.read_csv(run.path("layers.csv"))
    allocated = layers[layers.sensitivity.notna()]
    weights = int((allocated.out_features * allocated.in_features).sum())
    whole = int((layers.out_features * layers.in_features).sum())
    rows = [{"plan": REFERENCE, "memory_bytes": 2 * weights, "disk_bytes": 2 * whole}]
    for plan in plans:
        solution = read_allocation(plan_file(run, plan))
        used = {choice.quantizer for choice in solution.layers.values()}
        folder = run.path(f"checkpoints/{plan}")
        rows.append(
            {
                "plan": plan,
                "memory_bytes": solution.costs["memory_bytes"],
                "disk_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
                "predicted_loss": solution.objective,
                # a uniform plan is optimal only in a palette of one: no bound on what the user's palette can do
                "lower_bound": solution.lower_bound if len(used) > 1 else math.nan,
                "seconds": run.stages.seconds.get(f"quantize {plan}", 0.0),
            }
        )
    frame = pd.DataFrame(rows).merge(measured, on="plan", validate="one_to_one")
    frame.insert(1, "bits_per_weight", 8 * frame.memory_bytes / weights)
    write_csv(frame, run.path("summary.csv"))
    return frame
