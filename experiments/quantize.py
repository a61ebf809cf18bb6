"""`python -m experiments.quantize model=smollm2 plan=PATH/allocation.json out=DIR`: a plan -> a checkpoint folder.

`uniform=tcq-3` takes one quantizer for every layer instead of a plan. `feedback=ldlq hessians=DIR` lets columns take
in the errors of others, by the second moments that experiments.calibrate wrote: same bytes, smaller loss. A killed run
goes on from the code cache when it is started again, and ends in the same bytes. What differs between runs (times,
config, environment) goes beside the checkpoint, into `DIR.run/`: run.json and quantization.csv."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from omegaconf import DictConfig

from alloc.solution import Solution, read_allocation
from experiments.entry import run, save_run
from experiments.progress import bar
from experiments.workspace import write_csv
from quantizers import make_quantizer
from quantizers.checkpoint import LayerChoice, read_config, write_checkpoint
from quantizers.feedback import Correction, Feedback, SecondMoments
from quantizers.models import LinearSlot, chosen_slots, linear_slots, load_model

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Load the model, encode what the cache lacks, write the checkpoint, print its size and distortion."""
    out = Path(cfg.out)
    if (cfg.plan is None) == (cfg.uniform is None):
        raise ValueError("give either plan=PATH/allocation.json or uniform=QUANTIZER, such as uniform=tcq-3")
    correction = feedback(cfg)
    plan = None if cfg.plan is None else read_allocation(cfg.plan)
    if plan is None:
        make_quantizer(cfg.uniform, cfg.state_bits)  # an unknown name is an error before the model is loaded
    loaded = load_model(cfg.model.path, verify_sha256=cfg.model.sha256)
    if plan is None:
        uniform = LayerChoice(quantizer=cfg.uniform)
        choices = dict.fromkeys(linear_slots(loaded.model, head=cfg.inventory.head), uniform)
    else:
        choices = plan_choices(plan)
    slots = chosen_slots(loaded.model, choices)
    if plan is not None:
        check_bytes(plan, slots, cfg.state_bits)
    with bar(f"quantize {out.name}") as progress:
        frame = write_checkpoint(
            out,
            loaded,
            choices,
            rotation_seed=cfg.rotation.seed,
            most_block=cfg.rotation.most_block,
            state_bits=cfg.state_bits,
            cache=None if cfg.cache is None else Path(cfg.cache),
            progress=progress,
            correction=correction,
        )
    beside = out.with_name(f"{out.name}.run")
    write_csv(frame, beside / "quantization.csv")
    save_run(beside, cfg, source_dtype=loaded.source_dtype)
    print(summary(out, frame, slots))


def feedback(cfg: DictConfig) -> Correction:
    """The method of the config with its second moments. ValueError where it reads them and `hessians` is not given."""
    method: Feedback = hydra.utils.instantiate(cfg.feedback)
    if method.needs_moments and cfg.hessians is None:
        raise ValueError(
            f"feedback={method.name} needs hessians=DIR, which python -m experiments.calibrate out=DIR writes"
        )
    return Correction(method=method, moments=SecondMoments(Path(cfg.hessians)) if method.needs_moments else None)


def plan_choices(plan: Solution) -> dict[str, LayerChoice]:
    """The plan's layers as the checkpoint records them."""
    return {
        name: LayerChoice(quantizer=choice.quantizer, kernel=choice.kernel, fused_with=choice.fused_with)
        for name, choice in plan.layers.items()
    }


def check_bytes(plan: Solution, slots: Mapping[str, LinearSlot], state_bits: int) -> None:
    """What the checkpoint will hold for the plan's layers against what the plan charged.

    ValueError over the plan's memory budget. Under it a difference (tables of another storage, such as published ones
    without row scales) is logged."""
    charged = plan.costs.get("memory_bytes")
    names = [name for name in plan.layers if name in slots]
    if charged is None or len(names) < len(plan.layers):
        return  # a foreign plan without bytes, or one that names what is no layer here, such as a tied embedding
    quantizers = {c.quantizer: make_quantizer(c.quantizer, state_bits) for c in plan.layers.values()}
    held = sum(quantizers[plan.layers[n].quantizer].storage_bytes(*slots[n].weight.shape) for n in names)
    limit = plan.budgets.get("memory_bytes")
    if limit is not None and held > limit:
        raise ValueError(f"the checkpoint would hold {held} bytes, over the plan's budget of {limit:.0f} bytes")
    if held != charged:
        log.warning("the checkpoint holds %d bytes, the plan's tables charged %d", held, charged)


def summary(out: Path, frame: pd.DataFrame, slots: Mapping[str, LinearSlot]) -> str:
    """A few lines for the terminal."""
    counts: Mapping[Any, int] = frame["quantizer"].value_counts(sort=False).to_dict()
    weights = sum(slot.weight.numel() for slot in slots.values())
    held = int(frame["storage_bytes"].sum())
    _, quantization = read_config(out)
    disk = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    return (
        f"{out}: {len(frame)} layers, {', '.join(f'{count} {name}' for name, count in counts.items())}\n"
        f"layers {held:,} bytes ({8 * held / weights:.4f} bits per weight), codebooks {quantization.shared_bytes:,}, "
        f"safetensors {disk:,} bytes\n"
        f"{int(frame['cached'].sum())} layers from the cache, {frame['seconds'].sum():.1f} s"
    )


if __name__ == "__main__":
    run(main, "quantize")
