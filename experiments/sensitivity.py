"""`python -m experiments.sensitivity model=smollm2 sensitivity=fisher out=DIR`: fill the sensitivities of layers.csv.

`check.layers=30` also measures true one-layer quantization on so many stratified layers (sensitivity_check.csv), and
`loss=[tcq-3]` on all of them (loss.csv, which the allocator then takes in place of sensitivity x distortion)."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig

from alloc.sensitivity.one_layer import OneLayer
from analysis.sensitivity import method_table
from experiments.entry import run, save_run
from experiments.progress import bar
from experiments.sensitivity_check import check_sensitivities
from experiments.table_stages import with_sensitivities
from experiments.workspace import Workspace, write_csv
from quantizers import palette
from quantizers.base import Quantizer
from quantizers.models import inventory


def main(cfg: DictConfig) -> None:
    """Measure, write layers.csv, then the optional comparisons with the truth."""
    quantizers = palette(list(cfg.loss), state_bits=cfg.state_bits) if cfg.loss else ()
    path = Path(cfg.out) / "layers.csv"
    workspace = Workspace(cfg=cfg, folder=path.parent)
    names = list(workspace.slots)
    layers = existing(path, names) if path.is_file() else inventory(workspace.loaded.model, head=cfg.inventory.head)
    start = time.perf_counter()
    layers = with_sensitivities(workspace, layers)
    seconds = round(time.perf_counter() - start, 2)
    write_csv(layers, path)
    print(f"{path}: {len(names)} layers by {layers.sensitivity_method.dropna().iloc[0]} in {seconds} s")
    if quantizers:
        write_csv(pd.concat([true_losses(workspace, q) for q in quantizers]), path.parent / "loss.csv")
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
        raise ValueError(f"{path} is not of this model, or of another inventory.head: it lacks the layer {absent[0]!r}")
    return layers


def true_losses(workspace: Workspace, quantizer: Quantizer) -> pd.DataFrame:
    """layer, quantizer, distortion, loss, loss_se: every layer alone quantized, in its rotated basis."""

    def decode(layer: str) -> torch.Tensor:
        weight = workspace.slots[layer].weight
        if not quantizer.rotated:
            return quantizer.decode(quantizer.encode(weight))
        rotation = workspace.rotation(layer)
        return rotation.unrotate_weight(quantizer.decode(quantizer.encode(rotation.rotate_weight(weight))))

    with bar(f"one-layer {quantizer.name}") as progress:
        method = OneLayer(decode=decode, quantizer=quantizer.name)
        windows = workspace.calibration_windows()
        return method.measure(workspace.loaded.model, workspace.slots, windows, progress=progress)


if __name__ == "__main__":
    run(main, "sensitivity")
