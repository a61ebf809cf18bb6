r"""The artifact of `experiments.calibrate`: one second moment H = E[x x'] a fusion group, in the rotated basis.

    hessians.safetensors     <fusion group>: (in, in) float32, symmetric; R E[x x'] R' with the rotation of the group
    hessians.json            rotation_seed, most_block, tokens (fusion group -> number seen), and what was read

H is half the Hessian of |W x|^2 in a row of W, hence the name. Tensors are written one by one as they are computed, and
read one by one as they are needed: of all of them, in^2 numbers a group, only one is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from quantizers.rotation.transform import block_factors

TENSORS = "hessians.safetensors"
SETTINGS = "hessians.json"


class MomentWriter:
    """Writes the tensors of `sizes` (fusion group -> in) in that order; `close` renames the finished file into place.

    A context manager: left by an exception it leaves no file."""

    def __init__(self, folder: Path, sizes: Mapping[str, int]) -> None:
        self.path = folder / TENSORS
        self.temporary = folder / f"{TENSORS}.partial"
        self._waiting = dict(sizes)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for group, n in sizes.items():
            header[group] = {"dtype": "F32", "shape": [n, n], "data_offsets": [end, end + 4 * n * n]}
            end += 4 * n * n
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # data are aligned to 8 bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = self.temporary.open("wb")
        self._stream.write(len(text).to_bytes(8, "little") + text)

    def add(self, group: str, moment: torch.Tensor) -> None:
        """The next tensor, (in, in)."""
        expected, n = next(iter(self._waiting.items()))
        assert (group, tuple(moment.shape)) == (expected, (n, n)), (group, tuple(moment.shape), expected, n)
        self._stream.write(moment.to("cpu", torch.float32).contiguous().numpy().tobytes())
        del self._waiting[group]

    def __enter__(self) -> MomentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        assert not self._waiting, self._waiting
        self.temporary.replace(self.path)


@dataclass(frozen=True)
class SecondMoments:
    """The artifact in `folder`, read lazily."""

    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """hessians.json. FileNotFoundError or ValueError, naming the file."""
        path = self.folder / SETTINGS
        if not path.is_file() or not (self.folder / TENSORS).is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no {SETTINGS} and {TENSORS}; python -m experiments.calibrate writes them"
            )
        try:
            content = json.loads(path.read_text())
            rotation = {"rotation_seed": int(content["rotation_seed"]), "most_block": int(content.get("most_block", 0))}
            return {**content, **rotation}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def check(self, sizes: Mapping[str, int], rotation_seed: int, most_block: int = 0) -> None:
        """ValueError where the rotation is another, a fusion group is missing or its inputs are of another number.

        Another limit of Hadamard blocks is no other rotation where it changes no block."""
        seed, limit = self.settings["rotation_seed"], self.settings["most_block"]
        if seed != rotation_seed:
            raise ValueError(f"the second moments in {self.folder} are of rotation.seed={seed}, not {rotation_seed}")
        for n in sorted(set(sizes.values())):
            if block_factors(n, limit) != block_factors(n, most_block):
                raise ValueError(
                    f"the second moments in {self.folder} are of rotation.most_block={limit}, not {most_block}"
                )
        held = dict(self._shapes())
        for group, n in sizes.items():
            if held.get(group) != (n, n):
                raise ValueError(
                    f"{self.folder} holds {held.get(group, 'nothing')} for the fusion group {group!r} of {n} inputs: "
                    "it was calibrated on another model, or with another inventory.head"
                )

    def moment(self, group: str) -> torch.Tensor:
        """H (in, in) float32 of a fusion group. ValueError where it is absent or the file damaged."""
        try:
            with safe_open(self.folder / TENSORS, framework="pt", device="cpu") as file:
                return file.get_tensor(group)
        except SafetensorError as error:
            raise ValueError(f"{self.folder / TENSORS}: {group!r}: {error}") from error

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        try:
            with safe_open(self.folder / TENSORS, framework="pt", device="cpu") as file:
                for group in file.keys():  # noqa: SIM118 (safe_open is not iterable)
                    yield group, tuple(file.get_slice(group).get_shape())
        except SafetensorError as error:
            raise ValueError(f"{self.folder / TENSORS} is damaged: {error}") from error


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """hessians.json, atomically."""
    temporary = folder / f"{SETTINGS}.partial"
    temporary.write_text(json.dumps(dict(settings), indent=1) + "\n")
    temporary.replace(folder / SETTINGS)
