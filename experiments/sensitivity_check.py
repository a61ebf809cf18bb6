"""Sensitivities against the truth: on stratified layers, predicted beside measured loss of one-layer quantization.

Each chosen layer is really quantized (rotate, encode, decode, rotate back) while all others stay, and the KL is
measured on calibration text. The method in use and the definition (`noise`) each predict sensitivity x distortion."""

from __future__ import annotations

import pandas as pd
import torch

from alloc.sensitivity import Noise
from alloc.sensitivity.one_layer import OneLayer, stratified
from experiments.progress import bar
from experiments.workspace import Workspace, settings, write_csv
from quantizers import make_quantizer

OUTLIER = "model.layers.11.mlp.down_proj"  # carries a tenth of all KL in the embedded model


def check_sensitivities(run: Workspace) -> None:
    """sensitivity_check.csv on `check.layers` layers with `check.quantizer`."""
    layers, path = run.path("layers.csv"), run.path("sensitivity_check.csv")
    check = run.cfg.check

    def work() -> None:
        quantizer = make_quantizer(check.quantizer, state_bits=run.cfg.state_bits)
        chosen = {name: run.slots[name] for name in stratified(list(run.slots), check.layers, always=[OUTLIER])}
        windows = run.calibration_windows()

        def decode(layer: str) -> torch.Tensor:
            rotation = run.rotation(layer)
            rotated = rotation.rotate_weight(chosen[layer].weight)
            return rotation.unrotate_weight(quantizer.decode(quantizer.encode(rotated)))

        with bar("one-layer truth") as progress:
            truth = OneLayer(decode=decode, quantizer=quantizer.name).measure(
                run.loaded.model, chosen, windows, progress=progress
            )
        with bar("noise on the same layers") as progress:
            noise = Noise().measure(
                run.loaded.model,
                chosen,
                windows,
                generator=torch.Generator().manual_seed(run.cfg.seed),
                progress=progress,
            )
        table = pd.read_csv(layers).set_index("layer")
        used = str(table.sensitivity_method.dropna().iloc[0])
        frame = truth.rename(columns={"loss": "measured_loss", "loss_se": "measured_loss_se"})
        frame[used] = table.sensitivity.reindex(frame.layer).to_numpy() * frame.distortion
        frame["noise"] = noise.set_index("layer").sensitivity.reindex(frame.layer).to_numpy() * frame.distortion
        write_csv(frame, path)

    cfg = run.cfg
    inputs = [
        run.source(),
        settings(check),
        settings(cfg.calibration),
        settings(cfg.rotation),
        cfg.state_bits,
        cfg.seed,
    ]
    run.stages.run("sensitivity check", work, settings=inputs, reads=[layers], writes=[path], share=True)
