"""latency.csv: measured microseconds of one (fused) layer x quantizer x kernel x batch, a table and never a formula.

`members` is a set of the last parts of layer names, `q_proj+k_proj`, in any order; the row `constant` is the rest of a
token. Times are kept as the exact decimals of the file, so that a sum is within a limit to the last digit."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from alloc.strict_csv import read_rows, real, text, whole

CONSTANT = "constant"
Members = tuple[str, ...]
Shape = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One measurement; `shape` (out_features, in_features) of the fused matrix, None where the row holds for any."""

    quantizer: str
    kernel: str
    shape: Shape | None
    latency_us: Decimal
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """`rows[members, batch]`; `constant[batch]` in microseconds."""

    path: Path
    rows: dict[tuple[Members, int], tuple[LatencyRow, ...]]
    constant: dict[int, Decimal]

    @property
    def kernels(self) -> tuple[str, ...]:
        """Every kernel of the table, in alphabetical order."""
        return tuple(sorted({row.kernel for rows in self.rows.values() for row in rows}))

    @property
    def batches(self) -> tuple[int, ...]:
        """Every batch size of the table."""
        return tuple(sorted({batch for _, batch in self.rows}))

    def matching(self, members: Members, shape: Shape, batch: int) -> list[LatencyRow]:
        """The rows of a block: `members` sorted, `shape` of the fused matrix."""
        return [row for row in self.rows.get((members, batch), ()) if row.shape is None or row.shape == shape]


def block_members(layers: list[str]) -> Members:
    """The key of a block: the last parts of its layers' names, sorted."""
    return tuple(sorted(name.rsplit(".", 1)[-1] for name in layers))


def read_latency(path: Path) -> LatencyTable:
    """Raises ValueError on a bad or repeated row (the order of members makes no difference)."""
    rows: dict[tuple[Members, int], list[LatencyRow]] = {}
    constant: dict[int, Decimal] = {}
    seen: dict[tuple[Members, int, str, str, Shape | None], int] = {}
    columns = ("members", "quantizer", "kernel", "batch", "latency_us")
    for line, (members, quantizer, kernel, batch_text, value, out, into) in read_rows(
        path, columns, ("out_features", "in_features")
    ):
        batch = whole(path, line, "batch", batch_text, low=1)
        real(path, line, "latency_us", value)
        if text(path, line, "members", members) == CONSTANT:
            if batch in constant:
                raise ValueError(f"{path}: line {line}: second row {CONSTANT!r} for batch {batch}")
            constant[batch] = Decimal(value)
            continue
        key = tuple(sorted(part.strip() for part in members.split("+")))
        shape = _shape(path, line, out, into)
        row = LatencyRow(
            quantizer=text(path, line, "quantizer", quantizer),
            kernel=text(path, line, "kernel", kernel),
            shape=shape,
            latency_us=Decimal(value),
            line=line,
        )
        identity = (key, batch, quantizer, kernel, shape)
        if identity in seen:
            raise ValueError(
                f"{path}: line {line}: {members},{quantizer},{kernel},{batch} repeats line {seen[identity]} "
                "(members are a set: their order makes no difference)"
            )
        seen[identity] = line
        rows.setdefault((key, batch), []).append(row)
    return LatencyTable(path=path, rows={key: tuple(value) for key, value in rows.items()}, constant=constant)


def _shape(path: Path, line: int, out: str, into: str) -> Shape | None:
    if not out and not into:
        return None
    return whole(path, line, "out_features", out, low=1), whole(path, line, "in_features", into, low=1)
