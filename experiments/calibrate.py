"""`python -m experiments.calibrate out=DIR`: the second moments H of what the layers read, for error feedback.

`DIR/hessians.safetensors` holds H = R E[x x'] R' of every fusion group over the calibration half of the text, rotated
with the group's signs; hessians.json says of what. `experiments.quantize feedback=ldlq hessians=DIR` reads both.
`tokens=attention` weighs the tokens by the attention they receive (RSQ). It takes 4 in^2 bytes a group."""

from __future__ import annotations

import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from experiments.entry import run, save_run
from experiments.progress import bar
from experiments.workspace import Workspace
from quantizers.feedback import write_settings
from quantizers.feedback.calibration import calibrate


def main(cfg: DictConfig) -> None:
    """Stream the windows through the model, write the moments, print how many and how long it took."""
    token_weights = hydra.utils.instantiate(cfg.tokens)
    workspace = Workspace(cfg=cfg, folder=Path(cfg.out))
    windows = workspace.calibration_windows()
    start = time.perf_counter()
    with bar("calibrate") as progress:
        tokens = calibrate(
            workspace.folder,
            workspace.loaded.model,
            workspace.slots,
            windows,
            token_weights=token_weights,
            rotation_seed=cfg.rotation.seed,
            most_block=cfg.rotation.most_block,
            memory_bytes=int(cfg.memory_gib * (1 << 30)),
            progress=progress,
        )
    seconds = round(time.perf_counter() - start, 2)
    settings = {
        "rotation_seed": cfg.rotation.seed,
        "most_block": cfg.rotation.most_block,
        **token_weights.settings(),
        "model": cfg.model.path,
        "text": cfg.text.path,
        "windows": list(windows.shape),
        "group_tokens": tokens,
    }
    write_settings(workspace.folder, settings)
    save_run(workspace.folder, cfg, seconds={"calibrate": seconds})
    print(f"{workspace.folder}: {len(tokens)} second moments over {windows.numel()} tokens in {seconds} s")


if __name__ == "__main__":
    run(main, "calibrate")
