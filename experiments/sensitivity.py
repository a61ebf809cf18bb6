"""`python -m experiments.sensitivity model=smollm2 sensitivity=fisher out=DIR`: fill the sensitivities of layers.csv.

`check.layers=30` also measures true one-layer quantization on so many stratified layers (sensitivity_check.csv), and
`loss=[tcq-3]` on all of them (loss.csv, which the allocator then takes in place of sensitivity x distortion)."""

from __future__ import annotations

import time
from pathlib import Path

import hydra
import pandas as pd
import torch
from omegaconf import DictConfig

from alloc.sensitivity.one_layer import OneLayer
from analysis.sensitivity import method_table
from experiments.entry import run, save_run
from experiments.progress import bar
from experiments.sensitivity_check import check_sensitivities
from experiments.workspace import Workspace, write_csv
from quantizers import palette
from quantizers.base import Quantizer
from quantizers.models import inventory, linear_slots, load_model, load_text, token_windows

FILLED = ("sensitivity", "sensitivity_se", "sensitivity_method")


def main(cfg: DictConfig) -> None:
    """Measure, write layers.csv, then the optional comparisons with the truth."""
    method = hydra.utils.instantiate(cfg.sensitivity)
    quantizers = palette(list(cfg.loss), state_bits=cfg.state_bits) if cfg.loss else ()
    loaded = load_model(cfg.model.path, verify_sha256=cfg.model.sha256)
    slots, path = linear_slots(loaded.model), Path(cfg.out) / "layers.csv"
    layers = existing(path, list(slots)) if path.is_file() else inventory(loaded.model)
    text = load_text(cfg.text.path, min_characters=cfg.text.min_characters)
    windows = token_windows(loaded.tokenizer, text.calibration, **cfg.calibration)
    generator = torch.Generator().manual_seed(cfg.seed)
    start = time.perf_counter()
    with bar("sensitivity") as progress:
        found = method.measure(loaded.model, slots, windows, generator=generator, progress=progress)
    seconds = round(time.perf_counter() - start, 2)
    kept = layers.drop(columns=[name for name in FILLED if name in layers.columns])
    layers = kept.merge(found, on="layer", how="left", validate="one_to_one")
    write_csv(layers, path)
    print(f"{path}: {len(found)} layers by {method.name} in {seconds} s")
    workspace = Workspace(cfg=cfg, folder=path.parent)
    workspace.loaded, workspace.text = loaded, text
    if quantizers:
        write_csv(pd.concat([true_losses(workspace, q, windows) for q in quantizers]), path.parent / "loss.csv")
    if cfg.check.layers:
        check_sensitivities(workspace)
        print(method_table(pd.read_csv(path.parent / "sensitivity_check.csv")).to_string(index=False))
    save_run(path.parent, cfg, seconds={"sensitivity": seconds})


def existing(path: Path, names: list[str]) -> pd.DataFrame:
    """A layers.csv that is there already. ValueError where it is not this model's."""
    layers = pd.read_csv(path)
    if "layer" not in layers.columns:
        raise ValueError(f"{path} has no column 'layer', only {list(layers.columns)}")
    absent = sorted(set(names) - set(layers.layer))
    if absent:
        raise ValueError(f"{path} is not of this model: it lacks the layer {absent[0]!r}")
    return layers


def true_losses(workspace: Workspace, quantizer: Quantizer, windows: torch.Tensor) -> pd.DataFrame:
    """layer, quantizer, distortion, loss, loss_se: every layer alone quantized, in its rotated basis."""

    def decode(layer: str) -> torch.Tensor:
        weight = workspace.slots[layer].weight
        if not quantizer.rotated:
            return quantizer.decode(quantizer.encode(weight))
        rotation = workspace.rotation(layer)
        return rotation.unrotate_weight(quantizer.decode(quantizer.encode(rotation.rotate_weight(weight))))

    with bar(f"one-layer {quantizer.name}") as progress:
        method = OneLayer(decode=decode, quantizer=quantizer.name)
        return method.measure(workspace.loaded.model, workspace.slots, windows, progress=progress)


if __name__ == "__main__":
    run(main, "sensitivity")
