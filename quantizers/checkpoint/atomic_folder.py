r"""A folder that appears whole or not at all: built as `NAME.partial-PID` beside its place, synced, then renamed.

A folder that stands there already is replaced only where `replaceable` says so, and only after the new one is complete;
between the two renames (microseconds) a kill leaves the old one as `NAME.replaced-PID`; the next call puts it back."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(out: Path, *, replaceable: Callable[[Path], bool], needed_bytes: int) -> Iterator[Path]:
    """The folder to fill; it becomes `out` when the block ends, and is removed where the block fails.

    FileExistsError where `out` may not be replaced, OSError (disk full) where less than `needed_bytes` are free."""
    if out.exists() and not replaceable(out):
        raise FileExistsError(f"{out} exists and is neither empty nor a checkpoint; give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    free = shutil.disk_usage(out.parent).free
    if free < needed_bytes:
        raise OSError(errno.ENOSPC, f"cannot write {out}: it needs {needed_bytes} bytes, {free} are free")
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        sync(partial)
        take_place(partial, out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"cannot write {out}: {error.strerror}; it needs {needed_bytes} bytes, {free} were free; "
            f"nothing was left behind",
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def take_place(partial: Path, out: Path) -> None:
    """Rename `partial` to `out`, and remove what stood there."""
    old = out.with_name(f"{out.name}.replaced-{os.getpid()}")
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(folder: Path) -> None:
    """Flush the files of a folder and its entries to the disk."""
    for path in (*(p for p in folder.iterdir() if p.is_file()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_abandoned(out: Path) -> None:
    """Remove what killed processes of this machine left beside `out`; an old `out` that they took away comes back."""
    for path in sorted(out.parent.iterdir()):
        kind, _, pid = path.name.removeprefix(f"{out.name}.").partition("-")
        if kind not in ("partial", "replaced") or not path.name.startswith(f"{out.name}.") or not pid.isdigit():
            continue
        if alive(int(pid)):
            continue
        if kind == "replaced" and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether a process of this id runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
