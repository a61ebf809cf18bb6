"""The header of a GGUF file: settings and where each tensor lies (format: ggml/docs/gguf.md, versions 2 and 3).

    magic "GGUF", version u32, tensors u64, settings u64,
    settings: key, type u32, value;   tensors: name, n u32, n sizes u64 (fastest first), type u32, offset u64;
    then, from the next multiple of `general.alignment` (32), the data.    A string is its length u64 and UTF-8 bytes.

Written out here because the `gguf` package builds a memory-mapped array for every string of the vocabulary, 2 of the
6 seconds that the embedded model took to load; its dequantizers are used as they are."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

# value types by their number in the file; 8 is a string, 9 an array
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """A stored tensor: `shape` is (out, in), `data` its bytes as (out, bytes of a row), memory-mapped."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    data: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """All settings (arrays as lists) and all tensors, by the file's names."""

    settings: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


@dataclass(slots=True)
class Cursor:
    """A position in the bytes of a file; reading past their end is a ValueError that says so."""

    data: memoryview
    at: int = 0

    def take(self, size: int) -> memoryview:
        if self.at + size > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, {self.at + size} are needed: truncated")
        self.at += size
        return self.data[self.at - size : self.at]

    def scalars(self, code: str, count: int) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}")))

    def integer(self, code: str) -> int:
        return int(self.scalars(code, 1)[0])

    def string(self) -> str:
        return str(self.take(self.integer("Q")), encoding="utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise ValueError(f"a setting has the unknown type {kind}")
        return self.scalars(SCALARS[kind], 1)[0]

    def array(self) -> list[Any]:
        kind, count = self.integer("I"), self.integer("Q")
        if kind in SCALARS:
            return list(self.scalars(SCALARS[kind], count))
        return [self.value(kind) for _ in range(count)]


def read_header(path: Path) -> GgufHeader:
    """ValueError where the file is no GGUF, truncated, or of an unknown version or tensor type."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    try:
        return parse(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no GGUF file: {error}") from error


def parse(data: npt.NDArray[np.uint8]) -> GgufHeader:
    cursor = Cursor(data.data)
    magic, version = bytes(cursor.take(4)), cursor.integer("I")
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r}, version {version}; accepted: b'GGUF', 2 or 3 (little-endian)")
    tensor_count, setting_count = cursor.integer("Q"), cursor.integer("Q")
    settings: dict[str, Any] = {}
    for _ in range(setting_count):
        key = cursor.string()
        settings[key] = cursor.value(cursor.integer("I"))
    places: list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]] = []
    for _ in range(tensor_count):
        name = cursor.string()
        sizes = cursor.scalars("Q", cursor.integer("I"))
        kind = gguf.GGMLQuantizationType(cursor.integer("I"))
        places.append((name, tuple(reversed(sizes)), kind, cursor.integer("Q")))
    alignment = int(settings.get("general.alignment", 32))
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in places:
        rows = gguf.quant_shape_to_byte_shape(shape, kind)
        size = int(np.prod(rows, dtype=np.int64))
        stored = np.asarray(data[start + offset : start + offset + size])
        if stored.size != size:
            raise ValueError(f"tensor {name!r} needs bytes up to {start + offset + size}, the file has {data.size}")
        tensors[name] = GgufTensor(name=name, shape=shape, kind=kind, data=stored.reshape(rows))
    return GgufHeader(settings=settings, tensors=tensors)
