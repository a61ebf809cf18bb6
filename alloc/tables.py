"""The tables folder: layers.csv, quantizers.csv and the optional tables, validated and laid out as dense arrays.

    storage[l, q] = ceil(params_l bits_q / 8) + bytes_per_row_q out_features_l + codebook_bytes_q   (storage.csv first)
    loss[l, q]    = sensitivity_l distortion_q                      (distortion.csv, then loss.csv take precedence)

Rates are the exact decimals of the file and bytes are integers: no rounding enters a storage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alloc.latency import LatencyTable, read_latency
from alloc.strict_csv import read_header, read_rows, real, text, whole

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# The names that a budget may have without costs.csv
RESERVED = ("memory_bytes", "latency_us", "bits_per_weight", "tokens_per_second", "uniform", "whole_model")
FP16_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Arrays are read-only; `(layers, quantizers)` in the order of the files.

    `sensitivity` is NaN where the file leaves it empty (not allocatable); `loss` in nats/token; `costs[name]` is NaN
    where costs.csv has no row; `hashes` are the sha256 of the files read."""

    layers: tuple[str, ...]
    out_features: Ints  # (layers,)
    in_features: Ints  # (layers,)
    fusion_group: tuple[str, ...]
    sensitivity: Floats  # (layers,) nats/token per unit of distortion
    quantizers: tuple[str, ...]
    bits_per_weight: tuple[Fraction, ...]
    distortion: Floats  # (quantizers,) of quantizers.csv, NaN where empty
    storage_bytes: Ints  # (layers, quantizers)
    loss: Floats  # (layers, quantizers) nats/token
    costs: dict[str, Floats]  # name -> (layers, quantizers)
    latency: LatencyTable | None
    hashes: dict[str, str]

    @property
    def params(self) -> Ints:
        """(layers,) weights of each layer."""
        return self.out_features * self.in_features

    @property
    def allocatable(self) -> NDArray[np.bool_]:
        """(layers,) whether the layer has a sensitivity."""
        return ~np.isnan(self.sensitivity)

    def quantizer_index(self, name: str) -> int:
        """Position of a quantizer. Raises ValueError on an unknown one."""
        if name not in self.quantizers:
            raise ValueError(f"unknown quantizer {name!r}; quantizers.csv has {', '.join(self.quantizers)}")
        return self.quantizers.index(name)

    def fp16_bytes(self, layer: int) -> int:
        """Bytes of a layer that is not allocated: its fp16 row where there is one, else two bytes per weight."""
        if "fp16" in self.quantizers:
            return int(self.storage_bytes[layer, self.quantizers.index("fp16")])
        return FP16_BYTES * int(self.out_features[layer]) * int(self.in_features[layer])


def read_tables(folder: str | Path) -> Tables:
    """Read and check a tables folder. Raises FileNotFoundError, or ValueError that names file, line and value."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such tables folder")
    layers, out, into, groups, sensitivity = _read_layers(folder / "layers.csv")
    quantizers, bits, row_bytes, codebooks, distortion = _read_quantizers(folder / "quantizers.csv")
    read = ["layers.csv", "quantizers.csv"]
    pairs = _Pairs(
        layers={name: i for i, name in enumerate(layers)}, quantizers={n: i for i, n in enumerate(quantizers)}
    )

    storage = _storage(out, into, bits, row_bytes, codebooks)
    loss = sensitivity[:, None] * distortion[None, :]
    if (folder / "storage.csv").exists():
        read.append("storage.csv")
        for path, line, at, (value,) in pairs.read(folder / "storage.csv", ("bytes",)):
            storage[at] = whole(path, line, "bytes", value, low=0)
    if (folder / "distortion.csv").exists():
        read.append("distortion.csv")
        for path, line, at, (value,) in pairs.read(folder / "distortion.csv", ("distortion",)):
            loss[at] = sensitivity[at[0]] * real(path, line, "distortion", value)
    if (folder / "loss.csv").exists():
        read.append("loss.csv")
        for path, line, at, (value,) in pairs.read(folder / "loss.csv", ("loss",)):
            # a measured loss may be negative by its noise
            loss[at] = real(path, line, "loss", value, low=-np.inf)
    costs: dict[str, Floats] = {}
    if (folder / "costs.csv").exists():
        read.append("costs.csv")
        costs = _read_costs(folder / "costs.csv", pairs)
    latency = None
    if (folder / "latency.csv").exists():
        read.append("latency.csv")
        latency = read_latency(folder / "latency.csv")

    unknown = np.argwhere(np.isnan(loss) & ~np.isnan(sensitivity)[:, None])
    if len(unknown):
        layer, quantizer = unknown[0]
        raise ValueError(
            f"{folder / 'quantizers.csv'}: {quantizers[quantizer]} has no distortion and layer {layers[layer]} has no "
            "row for it in distortion.csv or loss.csv"
        )
    for array in (out, into, sensitivity, distortion, storage, loss, *costs.values()):
        array.setflags(write=False)
    return Tables(
        layers=layers,
        out_features=out,
        in_features=into,
        fusion_group=groups,
        sensitivity=sensitivity,
        quantizers=quantizers,
        bits_per_weight=bits,
        distortion=distortion,
        storage_bytes=storage,
        loss=loss,
        costs=costs,
        latency=latency,
        hashes={name: "sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in read},
    )


def _read_layers(path: Path) -> tuple[tuple[str, ...], Ints, Ints, tuple[str, ...], Floats]:
    seen: dict[str, int] = {}
    out, into, groups, sensitivity = [], [], [], []
    inputs: dict[str, tuple[int, str]] = {}
    columns = ("layer", "out_features", "in_features", "fusion_group", "sensitivity")
    for line, (layer, rows, columns_in, group, value) in read_rows(path, columns):
        if text(path, line, "layer", layer) in seen:
            raise ValueError(f"{path}: line {line}: layer {layer!r} repeats line {seen[layer]}")
        seen[layer] = line
        out.append(whole(path, line, "out_features", rows, low=1))
        into.append(whole(path, line, "in_features", columns_in, low=1))
        groups.append(text(path, line, "fusion_group", group))
        sensitivity.append(real(path, line, f"sensitivity of {layer}", value) if value else np.nan)
        first = inputs.setdefault(group, (into[-1], layer))
        if first[0] != into[-1]:
            raise ValueError(
                f"{path}: line {line}: layer {layer!r} has in_features {into[-1]} but {first[1]!r} of the same fusion "
                f"group {group!r} has {first[0]}; layers of a group read one input"
            )
    if not seen:
        raise ValueError(f"{path}: no layers")
    return tuple(seen), np.array(out, np.int64), np.array(into, np.int64), tuple(groups), np.array(sensitivity, float)


def _read_quantizers(path: Path) -> tuple[tuple[str, ...], tuple[Fraction, ...], Ints, Ints, Floats]:
    seen: dict[str, int] = {}
    bits, row_bytes, codebooks, distortion = [], [], [], []
    columns = ("quantizer", "bits_per_weight", "codebook_bytes", "distortion")
    for line, (name, rate, codebook, value, per_row) in read_rows(path, columns, ("bytes_per_row",)):
        if text(path, line, "quantizer", name) in seen:
            raise ValueError(f"{path}: line {line}: quantizer {name!r} repeats line {seen[name]}")
        seen[name] = line
        if real(path, line, f"bits_per_weight of {name}", rate, high=64.0) == 0.0:
            raise ValueError(f"{path}: line {line}: bits_per_weight of {name} is 0; it must be above 0, at most 64")
        bits.append(Fraction(rate))
        codebooks.append(whole(path, line, f"codebook_bytes of {name}", codebook))
        row_bytes.append(whole(path, line, f"bytes_per_row of {name}", per_row) if per_row else 0)
        # a distortion is a share of the weight's energy: above 1 it is percent or decibels
        distortion.append(real(path, line, f"distortion of {name}", value, high=1.0) if value else np.nan)
    if not seen:
        raise ValueError(f"{path}: no quantizers")
    return (
        tuple(seen),
        tuple(bits),
        np.array(row_bytes, np.int64),
        np.array(codebooks, np.int64),
        np.array(distortion, float),
    )


def _storage(out: Ints, into: Ints, bits: tuple[Fraction, ...], row_bytes: Ints, codebooks: Ints) -> Ints:
    """(layers, quantizers) bytes; the code bytes in exact rationals, once per distinct size."""
    params, where = np.unique(out * into, return_inverse=True)
    codes = [[-(-int(n) * rate.numerator // (8 * rate.denominator)) for rate in bits] for n in params]
    return np.array(codes, np.int64)[where] + row_bytes[None, :] * out[:, None] + codebooks[None, :]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Reader of the `layer,quantizer,...` tables."""

    layers: dict[str, int]
    quantizers: dict[str, int]

    def read(self, path: Path, columns: tuple[str, ...]) -> Iterator[tuple[Path, int, tuple[int, int], list[str]]]:
        seen = np.zeros((len(self.layers), len(self.quantizers)), dtype=bool)
        for line, (layer, quantizer, *values) in read_rows(path, ("layer", "quantizer", *columns)):
            if layer not in self.layers:
                raise ValueError(f"{path}: line {line}: unknown layer {layer!r}; it is not in layers.csv")
            if quantizer not in self.quantizers:
                raise ValueError(f"{path}: line {line}: unknown quantizer {quantizer!r}; it is not in quantizers.csv")
            at = (self.layers[layer], self.quantizers[quantizer])
            if seen[at]:
                raise ValueError(f"{path}: line {line}: {layer},{quantizer} appears twice")
            seen[at] = True
            yield path, line, at, values


def _read_costs(path: Path, pairs: _Pairs) -> dict[str, Floats]:
    names = tuple(name for name in read_header(path) if name not in ("layer", "quantizer"))
    taken = [name for name in names if name in RESERVED]
    if taken:
        raise ValueError(f"{path}: a cost must not be named {taken[0]!r}, which the other tables define")
    if not names:
        raise ValueError(f"{path}: no cost column beside layer and quantizer")
    costs = {name: np.full((len(pairs.layers), len(pairs.quantizers)), np.nan) for name in names}
    for _, line, at, values in pairs.read(path, names):
        for name, value in zip(names, values, strict=True):
            costs[name][at] = real(path, line, name, value)
    return costs
