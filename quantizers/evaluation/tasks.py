"""Zero-shot tasks by lm-evaluation-harness (Gao et al., 2024, doi:10.5281/zenodo.12608602), an optional extra.

Known tasks (arc_easy, arc_challenge, piqa, winogrande, hellaswag, ...) fetch their data from a hub; a folder of task
files (`include`) with local data needs no network."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from quantizers.models import LoadedModel

MISSING = 'zero-shot tasks need lm-eval: pip install "lm-eval[hf]>=0.4.9" (the extra `tasks` of bitpalette)'
COLUMNS = ("plan", "task", "metric", "value", "standard_error", "samples")


def check_tasks_available() -> None:
    """ImportError that says what to install where lm-eval or its data library is absent; nothing is imported."""
    if any(importlib.util.find_spec(name) is None for name in ("lm_eval", "datasets")):
        raise ImportError(MISSING)


def evaluate_tasks(
    loaded: LoadedModel,
    plan: str,
    tasks: Sequence[str],
    *,
    include: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Rows plan, task, metric, value, standard_error, samples; zero-shot, the tasks' own metrics.

    `include`: a folder of task files besides lm-eval's own; `limit`: documents per task. ImportError without lm-eval;
    ValueError for an unknown task, a model without tokenizer; what a task raises while it loads its data (OSError)."""
    check_tasks_available()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    if loaded.tokenizer is None:
        raise ValueError("zero-shot tasks need a tokenizer; the model came without one")
    if include is not None and not Path(include).is_dir():
        raise FileNotFoundError(f"{include} is no folder of task files")
    manager = TaskManager(include_path=include)
    unknown = sorted(set(tasks) - set(manager.all_tasks))
    if unknown:
        raise ValueError(f"lm-eval knows no task {unknown[0]!r}; a file of one's own is found by tasks.include=FOLDER")
    found = simple_evaluate(
        model=HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size),
        tasks=list(tasks),
        num_fewshot=0,
        limit=limit,
        task_manager=manager,
        log_samples=False,
        bootstrap_iters=0,
    )
    assert found is not None  # None on other ranks of a distributed run only
    rows = [
        {
            "plan": plan,
            "task": task,
            "metric": key.split(",")[0],
            "value": float(value),
            "standard_error": pd.to_numeric(values.get(key.replace(",", "_stderr,", 1)), errors="coerce"),
            "samples": found["n-samples"][task]["effective"],
        }
        for task, values in found["results"].items()
        for key, value in values.items()
        if "," in key and "_stderr," not in key
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
