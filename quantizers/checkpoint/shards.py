r"""Tensors of a checkpoint in safetensors files of at most 1 GiB (or one tensor), written in order, read back checked.

Only the tensors of one file are in memory while writing. A file is 8 bytes of header length n, n bytes of JSON
{name: {dtype, shape, data_offsets}}, data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from quantizers.checkpoint.layout import INDEX, SINGLE, LayerRecord, owner, tensor_hash

SHARD_BYTES = 1 << 30


@dataclass(slots=True)
class ShardWriter:
    """Collects tensors and writes a file whenever `limit` bytes are full; `finish` gives the files their last names.

    `checksums`: `tensor_hash` by tensor name, in the order of writing."""

    folder: Path
    limit: int = SHARD_BYTES
    checksums: dict[str, str] = field(default_factory=dict)
    _pending: dict[str, torch.Tensor] = field(default_factory=dict)
    _held: int = 0
    _shards: list[list[str]] = field(default_factory=list)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor; its name must be new."""
        assert name not in self.checksums, name
        size = tensor.numel() * tensor.element_size()
        if self._pending and self._held + size > self.limit:
            self._flush()
        self.checksums[name] = tensor_hash(tensor)
        self._pending[name] = tensor.contiguous()
        self._held += size

    def finish(self) -> None:
        """Write what is left, name the files and, where there are several, their index."""
        self._flush()
        count = len(self._shards)
        files = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
        for i, file in enumerate(files):
            (self.folder / partial_name(i)).rename(self.folder / file)
        if count > 1:
            size = sum(end for file in files for _, end in tensor_spans(self.folder / file)[1].values())
            weight_map = {name: file for file, names in zip(files, self._shards, strict=True) for name in names}
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            write_file(self.folder / INDEX, (json.dumps(index, indent=1, sort_keys=True) + "\n").encode())

    def _flush(self) -> None:
        # one metadata key only: safetensors orders several at random, and the bytes are to be the same every time
        write_file(self.folder / partial_name(len(self._shards)), save(self._pending, {"format": "pt"}))
        self._shards.append(list(self._pending))
        self._pending, self._held = {}, 0


def partial_name(i: int) -> str:
    """A shard while their number is unknown."""
    return f"shard-{i}.partial"


def write_file(path: Path, content: bytes) -> None:
    """Write and sync, so that the folder's rename cannot overtake its contents."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def tensor_spans(path: Path) -> tuple[int, dict[str, tuple[int, int]]]:
    """(offset of the data, tensor -> (begin, end) in the data) by the file's header. ValueError where it is damaged."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if 8 + size > path.stat().st_size:
            raise ValueError(f"{path} is damaged: its header is cut off")
        try:
            header: dict[str, Any] = json.loads(stream.read(size))
            header.pop("__metadata__", None)
            return 8 + size, {name: tuple(entry["data_offsets"]) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: its header cannot be read ({error})") from None


def checked_tensors(
    folder: Path, checksums: Mapping[str, str], layers: Mapping[str, LayerRecord]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint, each once and unharmed; views of mapped files, to be copied.

    ValueError names a tensor, and its layer, that is cut off, changed, missing or unknown."""
    missing = dict(checksums)
    for path in shard_files(folder):
        begin, spans = tensor_spans(path)
        for name, (_, end) in sorted(spans.items(), key=lambda item: item[1]):
            if begin + end > path.stat().st_size:
                raise ValueError(f"{path} is damaged: cut off within {owner(name, layers)}")
        try:
            with safe_open(path, framework="pt", device="cpu") as shard:
                for name in spans:
                    if name not in missing:
                        raise ValueError(f"{path} holds {owner(name, layers)}, which config.json does not list")
                    tensor = shard.get_tensor(name)
                    if tensor_hash(tensor) != missing.pop(name):
                        raise ValueError(
                            f"{path} is damaged: {owner(name, layers)} does not have the sha256 of config.json"
                        )
                    yield name, tensor
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    if missing:
        raise ValueError(f"{folder} lacks {owner(next(iter(missing)), layers)} and {len(missing) - 1} more")


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files that the folder should hold. FileNotFoundError names an absent one."""
    files = [SINGLE]
    if (folder / INDEX).is_file():
        try:
            files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder / INDEX} is damaged: {error}") from None
    for file in files:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} lacks {file}")
    return [folder / file for file in files]
