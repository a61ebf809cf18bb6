"""All runs below a folder in one table, for sweeps: rows of summary.csv (pareto.csv, ablation.csv), each with its run.

What differs between runs is in the configs that they saved, whatever started them: in a sweep the command line is that
of the sweep, or of a worker on another machine, and the same for every run.

`python -m analysis.collect FOLDER` writes the table as CSV to standard output."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.artifacts import BY_FILE, Artifact, read_json, read_table

ABLATION = Artifact(
    file="ablation.csv",
    command="python -m experiments.ablate",
    text=("study", "variant", "budget"),
    numbers=(),
    sparse=("predicted_loss", "lower_bound", "gap", "bits_per_weight", "memory_bytes", "latency_us", "runtime_s"),
    nonnegative=("bits_per_weight", "memory_bytes", "latency_us", "runtime_s"),
)
COLLECTED: Mapping[str, Artifact] = {
    **{file: BY_FILE[file] for file in ("summary.csv", "pareto.csv")},
    ABLATION.file: ABLATION,
}


def collect(folder: Path, file: str = "summary.csv") -> pd.DataFrame:
    """Rows of every `file` below `folder`, runs in the order of their paths. Extra columns: `run` (path below the
    folder), the overrides of the run's command as `override.KEY`, and every setting that is not the same in all runs
    as `config.KEY`. FileNotFoundError where no run holds the file, ValueError on a damaged one or another file."""
    if file not in COLLECTED:
        raise ValueError(f"cannot collect {file!r}; accepted are {', '.join(COLLECTED)}")
    paths = sorted(folder.rglob(file))
    if not paths:
        raise FileNotFoundError(f"{folder}: no {file} in it or below; {COLLECTED[file].command} writes one")
    records = [record(path.parent) for path in paths]
    configs = varied([dict(flat(found.get("config", {}))) for found in records])
    frames = []
    for path, found, config in zip(paths, records, configs, strict=True):
        extra: dict[str, Any] = {"run": path.parent.relative_to(folder).as_posix(), **overrides(found)}
        extra |= {f"config.{key}": value for key, value in config.items()}
        frames.append(read_table(path, COLLECTED[file]).assign(**extra))
    return pd.concat(frames, ignore_index=True)


def record(run: Path) -> dict[str, Any]:
    """run.json of a run folder, empty where absent."""
    return read_json(run / "run.json") if (run / "run.json").is_file() else {}


def overrides(found: Mapping[str, Any]) -> dict[str, str]:
    """`override.KEY` -> value, for each KEY=VALUE of the command in a run.json."""
    words = [str(word) for word in found.get("command", [])]
    pairs = (word.partition("=") for word in words if "=" in word)
    return {f"override.{key.lstrip('+')}": value for key, _, value in pairs}


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(`a.b.c`, value) of every leaf of nested mappings; a list is a leaf, as text."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from flat(value, f"{prefix}{key}.")
    elif prefix:
        yield prefix[:-1], str(config) if isinstance(config, list) else config


def varied(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings that are not the same in all `configs`; None where a config lacks one."""
    keys = dict.fromkeys(key for config in configs for key in config)
    kept = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    return [{key: config.get(key) for key in kept} for config in configs]


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr for a bad input."""
    parser = argparse.ArgumentParser(prog="python -m analysis.collect", description="All runs below a folder, as CSV.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--file", choices=list(COLLECTED), default="summary.csv")
    chosen = parser.parse_args(arguments)
    try:
        table = collect(chosen.folder, chosen.file)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(table.to_csv(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
