"""latency.csv of a model on the GPU at hand: `python -m quantizers.kernels.profile --layers FILE --out FILE`.

Every set of layers that may be fused, every quantizer with a kernel, every batch, timed as it stands in a model
(`chain`). The file is written after each row and rows that it has are kept: a killed run goes on. Beside it,
FILE.environment.json: device, clocks, driver, versions and the plain read of the run. `--config` measures the row
`constant` too (`rest_of_token`). It is with a head of 16 bits, until `--head` adds rows `lm_head`: with the first of a
batch, that of 16 bits, its time leaves the constant of the batch."""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from quantizers.kernels import chain
from quantizers.kernels.bench import build_all, chosen, found_gpu
from quantizers.kernels.fused_shapes import FusedShape, fused_shapes, head_shape, read_layers
from quantizers.kernels.products import Dense, Packed, Way
from quantizers.kernels.rest_of_token import rest_microseconds
from quantizers.models.families import HEAD

log = logging.getLogger(__name__)
KEY = ["members", "quantizer", "kernel", "batch", "out_features", "in_features"]
TIMES = ["latency_us", "least_us", "most_us"]
COLUMNS = [*KEY, *TIMES]
CONSTANT = "constant"


def kept(path: Path) -> pd.DataFrame:
    """The rows of an earlier run, as they stand there. ValueError where the file is another table."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    whole: dict[Hashable, str] = {"out_features": "Int64", "in_features": "Int64"}  # a constant has none
    rows = pd.read_csv(path, dtype=whole, float_precision="round_trip")
    if list(rows.columns) != COLUMNS:
        raise ValueError(f"{path} is no table of this command; name another file")
    return rows


def written(rows: pd.DataFrame, path: Path) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    rows.to_csv(temporary, index=False)
    temporary.replace(path)


def missing(
    shapes: Sequence[FusedShape], ways: Sequence[Way], batches: Sequence[int], rows: pd.DataFrame
) -> Iterator[tuple[FusedShape, Way, int]]:
    """What is still to be timed, in the order of the table."""
    done = set(rows[KEY].itertuples(index=False, name=None))
    for batch in batches:
        for shape in shapes:
            for way in ways:
                if way.takes(shape.out_features, shape.in_features, batch) and key_of(shape, way, batch) not in done:
                    yield shape, way, batch


def key_of(shape: FusedShape, way: Way, batch: int) -> tuple[object, ...]:
    """The row that a measurement is: values of KEY."""
    return shape.members, way.quantizer, way.kernel, batch, shape.out_features, shape.in_features


def constant_key(batch: int) -> tuple[object, ...]:
    """That of the row `constant` of a batch."""
    return CONSTANT, "", "", batch, "", ""


def without(rows: pd.DataFrame, again: Sequence[str], timed: Collection[tuple[object, ...]]) -> pd.DataFrame:
    """The rows but for those of the members `again` whose keys are `timed`: they are measured anew. The time of a head
    of 16 bits goes back to its constant. ValueError on members that lose no row, as nothing would measure them."""
    keys = rows[KEY].astype(object).where(rows[KEY].notna(), "").itertuples(index=False, name=None)
    gone = pd.Series([key[0] in again and key in timed for key in keys], index=rows.index, dtype=bool)
    if left := sorted(set(again) - set(rows.members[gone])):
        needs = {CONSTANT: " (it takes --config)", HEAD: " (it takes --head)"}.get(left[0], "")
        raise ValueError(f"no row of {left[0]} is there and timed by this command{needs}")
    less = rows[~gone].copy()
    for batch in rows.batch[gone].unique():
        constant = (less.members == CONSTANT) & (less.batch == batch)
        back = head_us(rows[gone], batch)
        less.loc[constant, TIMES] = less.loc[constant, TIMES].astype(float) + back
    return less


def main(arguments: Sequence[str] | None = None) -> None:
    """Time what the file lacks."""
    parser = argparse.ArgumentParser(description="time all (fused) products of a model on the GPU at hand")
    parser.add_argument("--layers", type=Path, required=True, help="layers.csv of experiments.inventory")
    parser.add_argument("--quantizers", nargs="*", default=["trellis-*"], help="names or shell patterns")
    parser.add_argument("--batches", type=int, nargs="*", default=[1])
    parser.add_argument("--no-fusion", action="store_true")
    parser.add_argument("--fp16", action="store_true", help="also 16-bit products by cuBLAS, the quantizer fp16")
    parser.add_argument("--head", action="store_true", help="also rows lm_head, whose time then leaves `constant`")
    parser.add_argument("--config", help="folder with the model's config.json: also measures the row `constant`")
    parser.add_argument("--context", type=int, default=512, help="tokens in the cache for the row `constant`")
    again = "members whose rows are timed anew (constant, q_proj+k_proj): after an update, or in a slow moment"
    parser.add_argument("--again", nargs="*", default=[], help=again)
    parser.add_argument("--out", type=Path, required=True, help="latency.csv")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        quantizers = chosen(options.quantizers)
        layers = read_layers(options.layers)
        shapes = list(fused_shapes(layers, fusion=not options.no_fusion))
        heads = [head_shape(layers)] if options.head else []
        ways: list[Way] = [*map(Packed, quantizers), *([Dense()] if options.fp16 else [])]
        nothing = pd.DataFrame(columns=COLUMNS)
        timed = {key_of(*one) for one in missing([*shapes, *heads], ways, options.batches, nothing)}
        timed |= {key_of(*one) for one in missing(heads, [Dense()], options.batches, nothing)}
        timed |= {constant_key(batch) for batch in options.batches if options.config}
        rows = without(kept(options.out), options.again, timed)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    device = found_gpu()
    build_all(quantizers, device)
    pool = chain.random_pool(device)
    record = {**chain.environment(device), "read_gigabytes_per_s": chain.read_limit(pool)}
    for batch in options.batches if options.config else ():
        if not ((rows.members == CONSTANT) & (rows.batch == batch)).any():
            head = head_us(rows, batch)
            times = [us - head for us in rest_microseconds(options.config, batch, options.context, device)]
            rows = appended(rows, constant_key(batch), times)
            written(rows, options.out)
    for shape, way, batch in missing(heads, [Dense()], options.batches, rows):
        times = chain.model_microseconds(way, pool, (shape.out_features, shape.in_features), batch)
        rows = with_head(rows, key_of(shape, way, batch), batch, times)
        written(rows, options.out)
    todo = list(missing([*shapes, *heads], ways, options.batches, rows))
    found: dict[tuple[object, ...], list[float]] = {}  # one measurement for all members of a shape
    for number, (shape, way, batch) in enumerate(todo, start=1):
        size = shape.out_features, shape.in_features
        times = found.get((way, batch, size)) or chain.model_microseconds(way, pool, size, batch)
        found[way, batch, size] = times
        rows = appended(rows, key_of(shape, way, batch), times)
        written(rows, options.out)
        told = "%d of %d: %s %s, batch %d: %.2f us"
        log.info(told, number, len(todo), shape.members, way.quantizer, batch, statistics.median(times))
    options.out.with_name(options.out.name + ".environment.json").write_text(json.dumps(record, indent=1) + "\n")


def head_us(rows: pd.DataFrame, batch: int) -> float:
    """us of the head of 16 bits that the constant of a batch is without, 0 where it is with it."""
    found = rows[(rows.members == HEAD) & (rows.quantizer == Dense.quantizer) & (rows.batch == batch)]
    return float(found.latency_us.iloc[0]) if len(found) else 0.0


def with_head(rows: pd.DataFrame, key: tuple[object, ...], batch: int, times: Sequence[float]) -> pd.DataFrame:
    """The table with the row of the head of 16 bits, and a constant of the batch, where there is one, without it."""
    constant = (rows.members == CONSTANT) & (rows.batch == batch)
    less = rows.copy()
    less.loc[constant, TIMES] = rows.loc[constant, TIMES].astype(float) - statistics.median(times)
    return appended(less, key, times)


def appended(rows: pd.DataFrame, key: tuple[object, ...], times: Sequence[float]) -> pd.DataFrame:
    """The table with one more row; constants stand first."""
    row = [*key, statistics.median(times), min(times), max(times)]
    found = sorted([*rows.to_numpy(object).tolist(), row], key=lambda row: row[0] != CONSTANT)
    return pd.DataFrame(found, columns=COLUMNS)


if __name__ == "__main__":
    main()
