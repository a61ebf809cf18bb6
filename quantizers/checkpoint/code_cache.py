r"""Codes of layers by what decides them, kept across plans: a changed budget encodes only the layers that changed.

key = sha256(weight, quantizer settings, rotation, format version, and error feedback with its H where there is one).
One safetensors file an entry, written to a temporary name and renamed, so that a kill leaves whole entries only; a
checksum inside is verified at every read, and a damaged entry counts as absent. Nothing is synced: after a power
failure the checksum decides."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from quantizers.base import Encoded, Quantizer
from quantizers.checkpoint.layout import FORMAT_VERSION, tensor_hash
from quantizers.rotation import Rotation

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedCode:
    """The codes of a layer and their distortion on the rotated weight."""

    encoded: Encoded
    distortion: float


def code_key(
    weight: torch.Tensor, quantizer: Quantizer, rotation: Rotation | None, feedback: Mapping[str, Any] | None = None
) -> str:
    """The name of an entry, 64 hexadecimal digits. weight: (out, in), as the model holds it; feedback: what decides the
    codes besides (`Correction.facts`). A limit of Hadamard blocks that changes none changes no key."""
    turned: list[Any] | None = None
    if rotation is not None:
        limited = rotation.block != replace(rotation, most_block=0).block
        turned = [rotation.in_features, rotation.seed, rotation.group, *([rotation.block] if limited else [])]
    facts = [FORMAT_VERSION, tensor_hash(weight), quantizer.settings(), turned]
    facts += [] if feedback is None else [dict(feedback)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CodeCache:
    """Entries below `folder`, which is made when the first is written."""

    folder: Path

    def path(self, key: str) -> Path:
        """256 subfolders, so that none grows to millions of entries in a sweep."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str, out_features: int, in_features: int) -> CachedCode | None:
        """The entry, None where it is absent or damaged (with a warning)."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            data = path.read_bytes()
            tensors = load(data)
            size = int.from_bytes(data[:8], "little")
            metadata = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["bitpalette"])
            found = CachedCode(
                encoded=Encoded(out_features=out_features, in_features=in_features, tensors=tensors),
                distortion=float(metadata["distortion"]),
            )
            if metadata["checksum"] == checksum(key, found):
                return found
            reason = "its checksum does not fit"
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = str(error)
        log.warning("damaged entry of the code cache, encoded again: %s (%s)", path, reason)
        return None

    def put(self, key: str, code: CachedCode) -> None:
        """Write an entry whole or not at all. OSError where the disk is full."""
        path = self.path(key)
        metadata = json.dumps({"checksum": checksum(key, code), "distortion": repr(code.distortion)})
        data = save(dict(code.encoded.tensors), {"bitpalette": metadata})
        temporary = path.with_name(f"{path.name}.partial-{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OSError(
                error.errno, f"cannot write the code cache {self.folder}: {error.strerror} ({len(data)} bytes)"
            ) from error


def checksum(key: str, code: CachedCode) -> str:
    """Over the key, the distortion and every tensor."""
    parts = [key, repr(code.distortion), *(f"{n}:{tensor_hash(t)}" for n, t in sorted(code.encoded.tensors.items()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
