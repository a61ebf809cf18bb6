"""Tokens per second of plans on the GPU at hand: `python -m quantizers.kernels.decode_step --config FOLDER --plans a`

A model of random weights (`random_model`), one step of it in one CUDA graph (`lean_step`, or transformers' own), timed
(`step_timing`), with the bytes of its weights, the peak of memory, and the limit: bytes of weights that a step reads /
read speed of the same run. The plan `fp16` is the dense model by cuBLAS in the same harness. --latency: predicted times
too; --breakdown: where the time goes. The JSON is written after each row."""

from __future__ import annotations

import argparse
import gc
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedConfig

from quantizers import make_quantizer
from quantizers.kernels import chain
from quantizers.kernels.bench import build_all
from quantizers.kernels.build import KernelUnavailableError
from quantizers.kernels.lean_step import ATTENTION, USUAL_ATTENTION, LeanStep, check_family
from quantizers.kernels.model_step import ModelStep
from quantizers.kernels.predicted_step import LatencyTable, error_percent, head_us, products_us, read_table
from quantizers.kernels.random_model import (
    INT8,
    block_layers,
    check_head,
    planned_bytes,
    planned_ends,
    random_model,
    weight_bytes,
)
from quantizers.kernels.random_plan import FP16, StepPlan, read_plan
from quantizers.kernels.rest_of_token import lean_rest
from quantizers.kernels.step_breakdown import breakdown, recorded
from quantizers.kernels.step_timing import Step, Times, replayed, times
from quantizers.models.empty import read_architecture

log = logging.getLogger(__name__)
PROFILED = 5  # steps
# Beside weights and cache: workspaces of cuBLAS (64 MiB), activations, logits. The usual budget.workspace_bytes
WORKSPACE_BYTES = 128 << 20
SHOWN = ["plan", "batch", "median_us", "least_us", "most_us", "tokens_per_s", "weight_gb", "planned_gb",
         "peak_gb", "limit_us", "limit_share", "predicted_us", "error_percent"]  # fmt: skip


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="tokens per second of plans on the GPU at hand")
    parser.add_argument("--config", required=True, help="folder with the model's config.json")
    parser.add_argument("--plans", nargs="+", required=True, help="names (trellis-3.25, fp16:unfused), .csv, .json")
    parser.add_argument(
        "--fused", dest="fused", action="store_true", default=True, help="plans that are names (default)"
    )
    parser.add_argument("--unfused", dest="fused", action="store_false")
    parser.add_argument("--head", default=FP16, help="of plans that do not name lm_head: fp16, int8, or a quantizer")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--context", type=int, default=512, help="tokens in the cache")
    parser.add_argument("--step", choices=["lean", "transformers"], default="lean")
    parser.add_argument(
        "--attention",
        choices=sorted(ATTENTION),
        default=USUAL_ATTENTION,
        help="of the lean step; triton has fewest launches",
    )
    parser.add_argument("--glue", choices=["compiled", "eager"], default="compiled", help="of the lean step")
    parser.add_argument("--latency", type=Path, help="latency.csv: predict too")
    parser.add_argument("--constant", choices=["table", "measured"], default="table", help="of the prediction")
    parser.add_argument("--breakdown", action="store_true")
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="of a replay")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every plan at every batch."""
    options = parsed(arguments)
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        measure_all(options)
    except (ValueError, OSError, KernelUnavailableError) as error:
        raise SystemExit(f"error: {error}") from None


def measure_all(options: argparse.Namespace) -> None:
    """Check all that is asked for, then measure it. ValueError or OSError says what cannot be."""
    config = read_architecture(options.config)
    layers = block_layers(config)
    plans = [read_plan(text, layers, fused=options.fused) for text in options.plans]
    check(options, config)
    table = read_table(options.latency) if options.latency else None
    for plan, batch in product(plans, options.batches) if table else ():
        assert table
        products_us(plan, layers, table, batch)  # what the table lacks is said before anything is measured
        if options.constant == "table":
            head_us(config, plan, table, batch, options.head)
    device = torch.device("cuda", torch.cuda.current_device()) if options.device == "cuda" else torch.device("cpu")
    record: dict[str, Any] = {"config": options.config, "model_type": config.model_type}
    record |= {name: getattr(options, name) for name in ("context", "step", "attention", "glue", "head", "constant")}
    record["read_gigabytes_per_s"] = prepared(plans, options.head, device)
    record["environment"] = chain.environment(device) if device.type == "cuda" else {}
    rows: list[dict[str, Any]] = []
    record["steps"] = rows
    for plan in plans:
        for batch in options.batches:
            row = measured(config, layers, plan, batch, options, device, record["read_gigabytes_per_s"])
            if table:
                row |= prediction(config, layers, plan, table, batch, options, device, row["median_us"])
            rows.append(row)
            written(record, options.out)
            log.info("%s, batch %d: %.1f us, %.1f tokens/s", plan.name, batch, row["median_us"], row["tokens_per_s"])
    log.info("%s", short_table(rows).to_string(index=False, float_format="%.2f"))


def check(options: argparse.Namespace, config: PreTrainedConfig) -> None:
    """ValueError for what no step can be measured with."""
    check_head(options.head)
    if options.step == "lean":
        check_family(config, options.context)
    elif options.context < max(options.steps, 8):
        raise ValueError(f"a context of {options.context} holds no {options.steps} steps (--step lean: any number)")
    if options.latency and options.constant == "table" and options.attention != USUAL_ATTENTION:
        raise ValueError(
            f"the row `constant` is of {USUAL_ATTENTION} attention, not {options.attention}; --constant measured"
        )
    if options.latency and options.step != "lean":
        raise ValueError("the constant of predictions is that of the lean step (--step lean)")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device: a step is timed on a GPU (--device cpu: without a graph)")


def prepared(plans: Sequence[StepPlan], head: str, device: torch.device) -> float | None:
    """Build the kernels; GB/s of a plain read, None on a CPU."""
    if device.type == "cpu":
        return None
    chosen = {quantizer.name: quantizer for plan in plans for quantizer in plan.quantizers}
    if head not in (FP16, INT8):
        chosen[head] = make_quantizer(head)
    build_all(list(chosen.values()), device)
    return chain.read_limit(chain.random_pool(device))


def measured(
    config: PreTrainedConfig, layers: pd.DataFrame, plan: StepPlan, batch: int, options: argparse.Namespace,
    device: torch.device, read_speed: float | None,
) -> dict[str, Any]:  # fmt: skip
    """One row."""
    cleared(device)
    ends = planned_ends(config, plan, options.head)
    check_room(plan, planned_bytes(plan, layers) + sum(ends), device)
    generator = torch.Generator(device).manual_seed(0)
    model = random_model(config, plan, head=options.head, dtype=torch.float16, generator=generator)
    held = weight_bytes(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = built(model, batch, options)
    replay = replayed(step, device)
    found: Times = times(step, replay, device, replays=options.replays, steps=options.steps)
    row: dict[str, Any] = {"plan": plan.name, "batch": batch, "head": plan.head(options.head), **asdict(found)}
    row["tokens_per_s"] = batch * 1e6 / found.median_us
    row["bytes"] = {
        **asdict(held),
        "total": held.total,
        "read": held.read,
        "planned_layers": planned_bytes(plan, layers),
        "planned_head": ends[0],
        "planned_embedding": ends[1],
    }
    row["cache_bytes"] = step.cache_bytes
    row["planned_peak_bytes"] = held.total + step.cache_bytes + WORKSPACE_BYTES
    row["peak_bytes"] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    row["limit_us"] = None if read_speed is None else held.read / read_speed / 1e3
    row["limit_with_cache_us"] = None if read_speed is None else (held.read + step.cache_bytes) / read_speed / 1e3
    row["limit_share"] = None if read_speed is None else row["limit_us"] / found.median_us
    if options.breakdown and device.type == "cuda":
        step.rewind(PROFILED + 1)
        kernels = recorded(replay, PROFILED)
        try:
            parts = breakdown(kernels, PROFILED)
        except ValueError as error:  # the profiler lost some: the row is good without
            log.warning("%s, batch %d: no breakdown: %s", plan.name, batch, error)
            return row
        row["breakdown"] = parts.to_dict("records")
        log.info("%s, batch %d\n%s", plan.name, batch, parts.to_string(index=False, float_format="%.3f"))
    return row


def built(model: nn.Module, batch: int, options: argparse.Namespace) -> Step:
    """The step that was asked for."""
    if options.step == "transformers":
        return ModelStep(model, batch=batch, capacity=options.context)
    compiled = options.glue == "compiled"
    return LeanStep(model, batch=batch, capacity=options.context, compiled=compiled, attention=options.attention)


def prediction(
    config: PreTrainedConfig, layers: pd.DataFrame, plan: StepPlan, table: LatencyTable, batch: int,
    options: argparse.Namespace, device: torch.device, median_us: float,
) -> dict[str, float]:  # fmt: skip
    """Predicted us and its error. A constant that is measured has the rotations and the head that the plan has."""
    if options.constant == "table":
        constant, head = table.constant(batch), head_us(config, plan, table, batch, options.head)
    else:
        head = 0.0
        cleared(device)
        rest = lean_rest(
            config, batch, options.context, device, head=plan.head(options.head), compiled=options.glue == "compiled",
            attention=options.attention, rotated=plan.rotates,
        )  # fmt: skip
        constant = times(rest, replayed(rest, device), device, replays=options.replays, steps=options.steps).median_us
    total = constant + head + products_us(plan, layers, table, batch)
    return {
        "constant_us": constant,
        "head_us": head,
        "predicted_us": total,
        "error_percent": error_percent(total, median_us),
    }


def cleared(device: torch.device) -> None:
    """Memory of the model before, and code compiled for its batch, go away."""
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()  # one for each stream that had a product of cuBLAS
        torch.cuda.empty_cache()


def check_room(plan: StepPlan, need: int, device: torch.device) -> None:
    """ValueError where the weights of a plan, `need` bytes, do not fit the device."""
    if device.type == "cpu":
        return
    free = torch.cuda.mem_get_info(device)[0]
    if need > free:
        raise ValueError(f"{plan.name} takes {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the device are free")


def written(record: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)


def short_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """What is shown of the rows."""
    table = pd.DataFrame([{**row, "weight_gb": row["bytes"]["total"] / 1e9} for row in rows])
    table["planned_gb"], table["peak_gb"] = table.planned_peak_bytes / 1e9, pd.to_numeric(table.peak_bytes) / 1e9
    return table[[name for name in SHOWN if name in table and not table[name].isna().all()]]


if __name__ == "__main__":
    main()
