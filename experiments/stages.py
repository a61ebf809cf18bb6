"""Resumable stages of a run folder: a stage is skipped where its inputs are unchanged and its outputs still there.

The fingerprint of a stage is the sha256 of its inputs (settings, and the contents of the files it reads), so that a
changed budget repeats the plan but not the sensitivities, and a killed run goes on where it stopped. What a stage wrote
can be shared between run folders through a cache folder (`share=True`): a sweep measures its tables once."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
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
    """The stages done in `folder` (`stages.json`: name -> fingerprint, seconds); `seconds` holds this run's view.

    `cache`: where shared results live, one folder per fingerprint; None shares nothing."""

    folder: Path
    cache: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def run(
        self,
        name: str,
        work: Callable[[], None],
        *,
        settings: Any,
        reads: Iterable[Path] = (),
        writes: Sequence[Path] = (),
        share: bool = False,
    ) -> bool:
        """Do `work` unless it was done with the same settings and files, here or (`share`) in another run; True where
        it ran."""
        done = self._read()
        content = {"settings": settings, "reads": {path.name: file_hash(path) for path in reads}}
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
        known = done.get(name, {})
        if known.get("fingerprint") == fingerprint and all(path.exists() for path in writes):
            self.seconds[name] = known["seconds"]
            self.skipped.append(name)
            log.info("%s: unchanged, kept", name)
            return False
        entry = self.cache / fingerprint if share and self.cache is not None else None
        if entry is not None and (seconds := _fetch(entry, writes)) is not None:
            self.seconds[name] = seconds
            self.skipped.append(name)
            log.info("%s: taken from another run", name)
            self._record(name, fingerprint)
            return False
        start = time.perf_counter()
        work()
        self.seconds[name] = round(time.perf_counter() - start, 2)
        if entry is not None:
            _keep(entry, writes, self.seconds[name])
        self._record(name, fingerprint)
        return True

    def _record(self, name: str, fingerprint: str) -> None:
        done = self._read()
        done[name] = {"fingerprint": fingerprint, "seconds": self.seconds[name]}
        _write_json(self.folder / "stages.json", done)

    def _read(self) -> dict[str, Any]:
        path = self.folder / "stages.json"
        return json.loads(path.read_text()) if path.is_file() else {}


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def _keep(entry: Path, writes: Sequence[Path], seconds: float) -> None:
    """Copy what a stage wrote; `stage.json`, written last, makes the entry valid."""
    entry.mkdir(parents=True, exist_ok=True)
    for path in writes:
        shutil.copyfile(path, entry / path.name)
    hashes = {path.name: file_hash(path) for path in writes}
    _write_json(entry / "stage.json", {"seconds": seconds, "files": hashes})


def _fetch(entry: Path, writes: Sequence[Path]) -> float | None:
    """Copy a kept entry to where the stage writes: its seconds, or None where it is absent, foreign or damaged."""
    record = entry / "stage.json"
    if not record.is_file():
        return None
    content = json.loads(record.read_text())
    if any(content["files"].get(path.name) != file_hash(entry / path.name) for path in writes):
        return None
    for path in writes:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(entry / path.name, path)
    return float(content["seconds"])
