"""`python -m experiments.bench_kernels out=DIR`: times of the products against the memory limit, on the GPU at hand.

A wrapper: the measuring code is `python -m quantizers.kernels.bench`, which needs nothing but torch and nvcc."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
from omegaconf import DictConfig

from analysis import kernel_speed, style
from analysis.figures import save
from experiments.entry import run, save_run
from quantizers.kernels import bench
from quantizers.kernels.build import KernelUnavailableError, here


def main(cfg: DictConfig) -> None:
    """Write kernels.json, its figure and the command's record."""
    try:
        here()
    except KernelUnavailableError as error:
        raise ValueError(str(error)) from None
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    lists = {"--models": cfg.models, "--quantizers": cfg.quantizers, "--batches": cfg.batches}
    arguments = [str(word) for option, values in lists.items() for word in (option, *values)]
    arguments += [f"--{name}" for name in ("rivals", "prompts") if cfg[name]]
    bench.main([*arguments, "--out", str(out / "kernels.json")])
    content = json.loads((out / "kernels.json").read_text())
    with matplotlib.rc_context(style.SETTINGS):
        save(kernel_speed.figure(content, batch=min(cfg.batches)), "kernels", out)
    save_run(out, cfg)
    print(out / "kernels.json")


if __name__ == "__main__":
    run(main, "bench_kernels")
