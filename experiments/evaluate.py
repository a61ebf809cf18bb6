"""`python -m experiments.evaluate checkpoint=DIR model=smollm2 windows=20 window=1024 out=DIR`: what a model loses.

evaluation.csv (a row per model and window), summary.csv (perplexity, KL and paired loss increase to the reference,
bytes), and with `tasks=[arc_easy,...]` tasks.csv. `checkpoint` may be a list: all meet the same windows, and the
reference is computed once. The stride is the window."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, ListConfig

from experiments.entry import run, save_run
from experiments.progress import bar
from experiments.workspace import write_csv
from quantizers.checkpoint import load_checkpoint, read_config
from quantizers.evaluation import evaluate, summarise
from quantizers.evaluation.tasks import check_tasks_available, evaluate_tasks
from quantizers.models import LoadedModel, load_model, load_text, token_windows

REFERENCE = "reference"


def main(cfg: DictConfig) -> None:
    """Load the reference and the checkpoints, measure, write, print the summary."""
    if cfg.tasks:
        check_tasks_available()
    folders = named(cfg.checkpoint)
    records = {name: read_config(folder)[1] for name, folder in folders.items()}
    documents = load_text(cfg.text.path, min_characters=cfg.text.min_characters).evaluation
    reference = load_model(cfg.model.path, verify_sha256=cfg.model.sha256)
    text = token_windows(reference.tokenizer, documents, window=cfg.window, count=cfg.windows)
    plans = {name: load_checkpoint(folder) for name, folder in folders.items()}
    start = time.perf_counter()
    with bar("evaluate") as progress:
        frame = evaluate(reference.model, {n: plan.model for n, plan in plans.items()}, text, progress=progress)
    seconds = time.perf_counter() - start
    summary = summarise(frame)
    for name, folder in folders.items():
        own, record = summary.plan == name, records[name]
        weights = sum(layer.out_features * layer.in_features for layer in record.layers.values())
        summary.loc[own, "bits_per_weight"] = 8 * record.storage_bytes / weights
        summary.loc[own, "memory_bytes"] = record.storage_bytes
        summary.loc[own, "disk_bytes"] = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    tasks = pd.concat([task_rows(cfg, name, model) for name, model in {REFERENCE: reference, **plans}.items()])
    out = Path(cfg.out)
    write_csv(frame, out / "evaluation.csv")
    write_csv(summary, out / "summary.csv")
    if cfg.tasks:
        write_csv(tasks, out / "tasks.csv")
    save_run(out, cfg, reference=reference.source_dtype, seconds={"evaluate": round(seconds, 2)})
    print(f"{cfg.windows} windows of {cfg.window} tokens, stride {cfg.window}, {seconds:.1f} s")
    print(summary.to_string(index=False))
    if cfg.tasks:
        print(tasks.to_string(index=False))


def named(checkpoint: str | ListConfig) -> Mapping[str, Path]:
    """The checkpoints by their folder's name, by their whole path where two names are equal."""
    folders = [Path(str(p)) for p in (checkpoint if isinstance(checkpoint, ListConfig) else [checkpoint])]
    if not folders or len(set(folders)) < len(folders):
        raise ValueError(f"checkpoint={checkpoint} must name one folder or several different ones")
    names = [folder.name for folder in folders]
    return {name if names.count(name) == 1 else str(f): f for name, f in zip(names, folders, strict=True)}


def task_rows(cfg: DictConfig, plan: str, loaded: LoadedModel) -> pd.DataFrame:
    """The zero-shot tasks of one model; no rows where none are asked for."""
    if not cfg.tasks:
        return pd.DataFrame()
    return evaluate_tasks(loaded, plan, list(cfg.tasks), include=cfg.task_files, limit=cfg.task_limit)


if __name__ == "__main__":
    run(main, "evaluate")
