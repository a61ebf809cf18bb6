"""`python -m experiments.profile_latency tables=FOLDER [config=FOLDER]`: latency.csv of a model on the GPU at hand.

FOLDER holds layers.csv (`experiments.inventory`); latency.csv goes beside it, ready for `experiments.allocate`. A
wrapper: the measuring code is `python -m quantizers.kernels.profile`, which needs nothing but torch, pandas,
transformers and nvcc."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from experiments.entry import run, save_run
from quantizers.kernels import profile
from quantizers.kernels.build import KernelUnavailableError, here


def main(cfg: DictConfig) -> None:
    """Time what latency.csv lacks."""
    folder = Path(cfg.tables)
    if not (folder / "layers.csv").is_file():
        raise ValueError(f"{folder} has no layers.csv: python -m experiments.inventory out={folder} writes it")
    try:
        here()
    except KernelUnavailableError as error:
        raise ValueError(str(error)) from None
    out = folder / "latency.csv"
    lists = {"--quantizers": cfg.quantizers, "--batches": cfg.batches}
    arguments = [str(word) for option, values in lists.items() for word in (option, *values)]
    arguments += ["--again", *cfg.again] if cfg.again else []
    arguments += [] if cfg.fusion else ["--no-fusion"]
    arguments += ["--fp16"] if cfg.fp16 else []
    arguments += ["--head"] if cfg.head else []
    arguments += [] if cfg.config is None else ["--config", str(cfg.config), "--context", str(cfg.context)]
    profile.main([*arguments, "--layers", str(folder / "layers.csv"), "--out", str(out)])
    save_run(folder, cfg)
    print(out)


if __name__ == "__main__":
    run(main, "profile_latency")
