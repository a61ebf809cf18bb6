"""All runs below a folder in one table, for sweeps: the rows of summary.csv (or pareto.csv), each with its run.

`python -m analysis.collect FOLDER` writes the table as CSV to standard output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.artifacts import BY_FILE, read_json, read_table

COLLECTED = ("summary.csv", "pareto.csv")


def collect(folder: Path, file: str = "summary.csv") -> pd.DataFrame:
    """Rows of every `file` below `folder`, runs in the order of their paths. Extra columns: `run` (path below the
    folder) and the overrides of the run's command as `override.KEY`. FileNotFoundError where no run holds the file,
    ValueError on a damaged one or another file."""
    if file not in COLLECTED:
        raise ValueError(f"cannot collect {file!r}; accepted are {', '.join(COLLECTED)}")
    paths = sorted(folder.rglob(file))
    if not paths:
        raise FileNotFoundError(f"{folder}: no {file} in it or below; {BY_FILE[file].command} writes one")
    frames = []
    for path in paths:
        extra: dict[str, Any] = {"run": path.parent.relative_to(folder).as_posix(), **overrides(path.parent)}
        frames.append(read_table(path, BY_FILE[file]).assign(**extra))
    return pd.concat(frames, ignore_index=True)


def overrides(run: Path) -> dict[str, str]:
    """`override.KEY` -> value, for each KEY=VALUE of the command in the run's run.json."""
    if not (run / "run.json").is_file():
        return {}
    words = [str(word) for word in read_json(run / "run.json").get("command", [])]
    pairs = (word.partition("=") for word in words if "=" in word)
    return {f"override.{key.lstrip('+')}": value for key, _, value in pairs}


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr for a bad input."""
    parser = argparse.ArgumentParser(prog="python -m analysis.collect", description="All runs below a folder, as CSV.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--file", choices=COLLECTED, default=COLLECTED[0])
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
