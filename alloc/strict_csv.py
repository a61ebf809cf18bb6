"""CSV files read strictly: a bad row is one ValueError that names the file, the line and the value.

Unknown extra columns are ignored; a row with too few or too many fields is a truncated or damaged file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

Row = tuple[int, list[str]]


def read_rows(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Iterator[Row]:
    """(line number, the fields of `required` and then `optional`, stripped; "" for an absent optional column).

    Raises FileNotFoundError, or ValueError on a missing column, a ragged row or a file that is not UTF-8 CSV."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            where = _columns(path, header, required, optional)
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise ValueError(
                        f"{path}: line {reader.line_num}: {len(fields)} fields where the header has {len(header)} "
                        f"(truncated?): {','.join(fields)!r}"
                    )
                yield reader.line_num, [fields[at].strip() if at >= 0 else "" for at in where]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise ValueError(f"{path}: damaged CSV ({error})") from None


def _columns(path: Path, header: list[str], required: tuple[str, ...], optional: tuple[str, ...]) -> list[int]:
    if len(set(header)) != len(header):
        raise ValueError(f"{path}: a column appears twice in the header: {','.join(header)!r}")
    missing = [name for name in required if name not in header]
    if missing:
        raise ValueError(f"{path}: missing column {missing[0]!r}; the header is {','.join(header)!r}")
    return [header.index(name) if name in header else -1 for name in (*required, *optional)]


def read_header(path: Path) -> list[str]:
    """The column names of a CSV file, stripped."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return [name.strip() for name in next(csv.reader(stream), [])]


def text(path: Path, line: int, column: str, value: str) -> str:
    """`value`, which must not be empty."""
    if not value:
        raise ValueError(f"{path}: line {line}: {column} is empty")
    return value


def real(path: Path, line: int, column: str, value: str, *, low: float = 0.0, high: float = math.inf) -> float:
    """A finite number in [low, high]."""
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{path}: line {line}: {column} {value!r} is not a number") from None
    if not math.isfinite(number) or not low <= number <= high:
        accepted = (
            "finite"
            if low == -math.inf
            else f"finite, at least {low:g}" + (f", at most {high:g}" if high < math.inf else "")
        )
        raise ValueError(f"{path}: line {line}: {column} {value!r} is not accepted; it must be {accepted}")
    return number


def whole(path: Path, line: int, column: str, value: str, *, low: int = 0) -> int:
    """An integer >= low (written `8`, not `8.5`; `8.0` is accepted)."""
    number = real(path, line, column, value, low=low, high=2**62)
    if number != int(number):
        raise ValueError(f"{path}: line {line}: {column} {value!r} is not a whole number")
    return int(value) if value.lstrip("+").isdigit() else int(number)
