r"""Codebooks are computed, never downloaded; this keeps them in the user's cache folder and checks given ones.

The folder is `$BITPALETTE_CACHE`, else `$XDG_CACHE_HOME/bitpalette`, else `~/.cache/bitpalette`. A file is written
once, atomically, under a name that holds all settings of its computation; where the folder cannot be written, the
codebook is computed again in every process (with a warning)."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where this user's computed tables live."""
    if folder := os.environ.get("BITPALETTE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitpalette"


def computed(name: str, shape: tuple[int, ...], compute: Callable[[], NDArray[np.float64]]) -> torch.Tensor:
    """The float16 codebook of this name and shape, from the cache folder or computed and put there."""
    path = cache_folder() / "codebooks" / f"{name}.npy"
    if path.is_file():
        try:
            stored = np.load(path, allow_pickle=False)
        except ValueError as error:
            log.warning("%s is damaged (%s): computed anew", path, error)
        else:
            if stored.dtype == np.float16 and stored.shape == shape and bool(np.isfinite(stored).all()):
                return torch.from_numpy(stored)
            log.warning("%s is not a float16 table of shape %s: computed anew", path, shape)
    table = compute().astype(np.float16)
    assert table.shape == shape
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        with os.fdopen(descriptor, "wb") as stream:
            np.save(stream, table)
        Path(temporary).replace(path)
    except OSError as error:
        log.warning("cannot keep the codebook %s: %s", path, error)
    return torch.from_numpy(table)


def checked_codebook(codebook: torch.Tensor, shape: tuple[int, ...], owner: str) -> torch.Tensor:
    """The codebook on the CPU; ValueError unless it is a finite float16 table of this shape."""
    if codebook.dtype != torch.float16 or tuple(codebook.shape) != shape:
        raise ValueError(
            f"the codebook of {owner} is float16 of shape {shape}, not {codebook.dtype} of {tuple(codebook.shape)}"
        )
    if not bool(torch.isfinite(codebook).all()):
        raise ValueError(f"the codebook of {owner} holds NaN or infinite values")
    return codebook.detach().to("cpu").contiguous()


def refuse_codebook(codebook: torch.Tensor, owner: str) -> NoReturn:
    """ValueError: the owner decodes without a table."""
    raise ValueError(f"{owner} reads no codebook, got one of shape {tuple(codebook.shape)}")


def ascending(codebook: torch.Tensor, key: torch.Tensor, owner: str) -> torch.Tensor:
    """The codebook; ValueError unless its key (first coordinates) ascends, as the nearest-point searches assume."""
    if bool((key[1:] < key[:-1]).any()):
        raise ValueError(f"the codebook of {owner} does not ascend")
    return codebook


def fingerprint(codebook: torch.Tensor) -> str:
    """A short hash of the table: part of `settings()`, because the codes depend on it."""
    return hashlib.sha256(codebook.contiguous().numpy().tobytes()).hexdigest()[:16]
