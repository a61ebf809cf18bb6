"""The stages that make the tables folder: inventory, rotation, rate-distortion, exact storage, sensitivities."""

from __future__ import annotations

import hydra
import pandas as pd
import torch

from experiments.measure_distortion import COLUMNS, CURVE, measured
from experiments.progress import bar
from experiments.workspace import Workspace, settings, write_csv
from quantizers.models import inventory
from quantizers.rotation import gaussianity

FILLED = ("sensitivity", "sensitivity_se", "sensitivity_method")
GAUSSIAN_WEIGHTS = 1 << 19  # distortion to 0.3 % at one standard error


def make_inventory(run: Workspace) -> None:
    """layers.csv without sensitivities."""
    path = run.path("inventory.csv")

    def work() -> None:
        write_csv(inventory(run.loaded.model, head=run.cfg.inventory.head), path)

    inputs = [run.source(), settings(run.cfg.inventory)]
    run.stages.run("inventory", work, settings=inputs, writes=[path], share=True)


def check_rotation(run: Workspace) -> None:
    """gaussianity.csv: kurtosis before and after, norm and inverse errors of every layer."""
    path = run.path("gaussianity.csv")

    def work() -> None:
        rows = []
        with bar("rotation") as progress:
            for done, (name, slot) in enumerate(run.slots.items()):
                rows.append({"layer": name, **gaussianity(slot.weight, run.rotation(name))})
                progress(done + 1, len(run.slots), name)
        write_csv(pd.DataFrame(rows), path)

    inputs = [run.source(), settings(run.cfg.inventory), settings(run.cfg.rotation)]
    run.stages.run("rotation", work, settings=inputs, writes=[path], share=True)


def measure_rates(run: Workspace) -> None:
    """quantizers.csv and rate_distortion.csv: every quantizer of the palette on a Gaussian source."""
    tables, curve = run.path("quantizers.csv"), run.path("rate_distortion.csv")

    def work() -> None:
        rows = []
        with bar("rate-distortion") as progress:
            for done, quantizer in enumerate(run.quantizers):
                progress(done, len(run.quantizers), quantizer.name)
                rows.append(measured(quantizer, weights=GAUSSIAN_WEIGHTS, seed=0, state_bits=run.cfg.state_bits))
            progress(len(run.quantizers), len(run.quantizers), "")
        frame = pd.DataFrame(rows)
        write_csv(frame[CURVE], curve)
        write_csv(frame[COLUMNS], tables)

    inputs = [[quantizer.settings() for quantizer in run.quantizers], GAUSSIAN_WEIGHTS, "float16 source"]
    run.stages.run("rate-distortion", work, settings=inputs, writes=[tables, curve], share=True)


def count_storage(run: Workspace) -> None:
    """storage.csv: the exact bytes of every layer with every quantizer, padding included."""
    layers, path = run.path("inventory.csv"), run.path("storage.csv")

    def work() -> None:
        frame = pd.read_csv(layers)
        rows = [
            (layer, quantizer.name, quantizer.storage_bytes(out_features, in_features))
            for layer, out_features, in_features in zip(
                frame.layer, frame.out_features.tolist(), frame.in_features.tolist(), strict=True
            )
            for quantizer in run.quantizers
        ]
        write_csv(pd.DataFrame(rows, columns=["layer", "quantizer", "bytes"]), path)

    inputs = [quantizer.settings() for quantizer in run.quantizers]
    run.stages.run("storage", work, settings=inputs, reads=[layers], writes=[path])


def measure_sensitivities(run: Workspace) -> None:
    """layers.csv: the inventory with the sensitivity of every layer to allocate."""
    base, path = run.path("inventory.csv"), run.path("layers.csv")

    def work() -> None:
        write_csv(with_sensitivities(run, pd.read_csv(base)), path)

    inputs = [run.source(), settings(run.cfg.sensitivity), settings(run.cfg.calibration), run.cfg.seed]
    run.stages.run("sensitivity", work, settings=inputs, reads=[base], writes=[path], share=True)


def with_sensitivities(run: Workspace, layers: pd.DataFrame) -> pd.DataFrame:
    """`layers` (a row per layer) with the columns of FILLED measured anew by the configured method."""
    method = hydra.utils.instantiate(run.cfg.sensitivity)
    generator = torch.Generator().manual_seed(run.cfg.seed)
    with bar("sensitivity") as progress:
        found = method.measure(
            run.loaded.model, run.slots, run.calibration_windows(), generator=generator, progress=progress
        )
    kept = layers.drop(columns=[name for name in FILLED if name in layers.columns])
    return kept.merge(found, on="layer", how="left", validate="one_to_one")
