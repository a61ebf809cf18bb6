"""Resumable stages of a run folder: a stage is skipped where its inputs are unchanged and its outputs still there.

The fingerprint of a stage is the sha256 of its inputs (settings, and the contents of the files it reads), so that a
changed budget repeats the plan but not the sensitivities, and a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, or of nothing where it is absent."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


@dataclass(slots=True)
class Stages:
    """The stages done in `folder` (`stages.json`: name -> fingerprint, seconds); `seconds` holds this run's view."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def run(
        self,
        name: str,
        work: Callable[[], None],
        *,
        settings: Any,
        reads: Iterable[Path] = (),
        writes: Iterable[Path] = (),
    ) -> bool:
        """Do `work` unless it was done with the same settings and files; True where it ran."""
        done = self._read()
        content = {"settings": settings, "reads": {path.name: file_hash(path) for path in reads}}
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
        known = done.get(name, {})
        if known.get("fingerprint") == fingerprint and all(path.exists() for path in writes):
            self.seconds[name] = known["seconds"]
            self.skipped.append(name)
            log.info("%s: unchanged, kept", name)
            return False
        start = time.perf_counter()
        work()
        self.seconds[name] = round(time.perf_counter() - start, 2)
        done = self._read()
        done[name] = {"fingerprint": fingerprint, "seconds": self.seconds[name]}
        temporary = self.folder / "stages.json.partial"
        temporary.write_text(json.dumps(done, indent=1) + "\n")
        temporary.replace(self.folder / "stages.json")
        return True

    def _read(self) -> dict[str, Any]:
        path = self.folder / "stages.json"
        return json.loads(path.read_text()) if path.is_file() else {}
