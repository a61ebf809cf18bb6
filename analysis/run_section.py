"""The section of the report about the run itself: command, machine, versions, configuration, seconds."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from analysis import page
from analysis.artifacts import PIPELINE, Run
from analysis.numbers import duration, size

Figures = Mapping[str, Figure]


def machine(run: Run, figures: Figures) -> str:
    """Command, environment, config and seconds."""
    parts = []
    if run.info:
        command = run.info.get("command", [])
        words = command if isinstance(command, str) else shlex.join(str(word) for word in command)
        environment = run.info.get("environment", {})
        packages = environment.get("packages", {})
        rows = [(name, str(value)) for name, value in environment.items() if name != "packages"]
        if packages:
            rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
        if "peak_memory_bytes" in run.info:
            rows.append(("peak memory of the process", size(run.info["peak_memory_bytes"])))
        parts += [page.code(words), page.facts(rows)]
        parts.append(page.folded("Configuration", page.code(_outline(run.info.get("config", {})))))
    else:
        parts.append(page.missing("run.json", PIPELINE))
    if "stages" in figures:
        kept = run.info.get("skipped", [])
        caption = f"Seconds of each stage, {duration(sum(run.seconds.values()))} in all."
        if kept:
            caption += f" Kept from an earlier run, with the seconds they took then: {', '.join(kept)}."
        parts += [
            page.heading("Where the seconds went"),
            page.drawing("stages", figures["stages"], caption),
        ]
    elif run.info:
        parts.append(page.missing("the field seconds of run.json", PIPELINE))
    return "".join(parts)


def _outline(value: Any, depth: int = 0) -> str:
    """Nested settings as indented lines."""
    pad = "  " * depth
    lines = []
    for name, item in value.items():
        nested = isinstance(item, dict) and item
        lines.append(f"{pad}{name}:" + (f"\n{_outline(item, depth + 1)}" if nested else f" {item}"))
    return "\n".join(lines)
