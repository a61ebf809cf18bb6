"""Small random tables folders and their optimum by enumeration, straight from the definition, not from Problem."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")
KERNELS = ("tensor-core", "cuda-core")


@dataclass
class Instance:
    """Plain rows of every table; `latency` maps (members set, quantizer, kernel) to hundredths of a microsecond."""

    layers: list[tuple[str, int, int, str, float]] = field(default_factory=list)
    quantizers: list[tuple[str, Fraction, int, float, int]] = field(default_factory=list)
    latency: dict[tuple[frozenset[str], str, str], int] = field(default_factory=dict)
    constant: int = 0
    energy: dict[tuple[str, str], int] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rows = [f"{n},{out},{into},{group},{a!r}" for n, out, into, group, a in self.layers]
        (folder / "layers.csv").write_text(
            "layer,out_features,in_features,fusion_group,sensitivity\n" + "\n".join(rows) + "\n"
        )
        lines = [f"{n},{float(bits)!r},{book},{d!r},{row}" for n, bits, book, d, row in self.quantizers]
        header = "quantizer,bits_per_weight,codebook_bytes,distortion,bytes_per_row\n"
        (folder / "quantizers.csv").write_text(header + "\n".join(lines) + "\n")
        if self.latency:
            text = f"members,quantizer,kernel,batch,latency_us\nconstant,,,1,{self.constant / 100}\n"
            for (members, quantizer, kernel), time in self.latency.items():
                text += f"{'+'.join(sorted(members, reverse=True))},{quantizer},{kernel},1,{time / 100}\n"
            (folder / "latency.csv").write_text(text)
        if self.energy:
            rows = [f"{layer},{quantizer},{value}" for (layer, quantizer), value in self.energy.items()]
            (folder / "costs.csv").write_text("layer,quantizer,energy\n" + "\n".join(rows) + "\n")
        return folder

    def groups(self) -> list[list[tuple[str, int, int, str, float]]]:
        found: dict[str, list[tuple[str, int, int, str, float]]] = {}
        for layer in self.layers:
            found.setdefault(layer[3], []).append(layer)
        return list(found.values())

    def bytes_of(
        self, layer: tuple[str, int, int, str, float], quantizer: tuple[str, Fraction, int, float, int]
    ) -> int:
        bits = quantizer[1] * layer[1] * layer[2] / 8
        return -(-bits.numerator // bits.denominator) + quantizer[4] * layer[1] + quantizer[2]

    def option_table(self, *, latency: bool, fusion: bool = True) -> list[np.ndarray]:
        """Per group an array (options, 4): loss, bytes, hundredths of us, energy; every option, dominated ones too."""
        tables = []
        for group in self.groups() if latency else [[layer] for layer in self.layers]:
            rows = []
            for partition in partitions(list(range(len(group)))) if latency else [[[0]]]:
                if not fusion and len(partition) < len(group):
                    continue
                rows += [
                    tuple(sum(column) for column in zip(*pick, strict=True))
                    for pick in itertools.product(*(list(self._block(group, block, latency)) for block in partition))
                ]
            tables.append(np.array(rows, dtype=float).reshape(-1, 4))
        return tables

    def _block(
        self, group: list[tuple[str, int, int, str, float]], block: list[int], latency: bool
    ) -> Iterator[tuple[float, int, int, int]]:
        members = frozenset(group[i][0].rsplit(".", 1)[-1] for i in block)
        for quantizer in self.quantizers:
            loss = sum(group[i][4] * quantizer[3] for i in block)
            size = sum(self.bytes_of(group[i], quantizer) for i in block)
            energy = sum(self.energy.get((group[i][0], quantizer[0]), 0) for i in block)
            if not latency:
                yield loss, size, 0, energy
            for kernel in KERNELS if latency else ():
                time = self.latency.get((members, quantizer[0], kernel))
                if time is not None:
                    yield loss, size, time, energy


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """All set partitions."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            left = [item for item in rest if item not in others]
            for tail in partitions(left):
                yield [[first, *others], *tail]


def all_plans(options: list[np.ndarray]) -> np.ndarray:
    """(plans, 4) summed columns of every combination."""
    total = np.zeros((1, 4))
    for table in options:
        total = (total[:, None, :] + table[None, :, :]).reshape(-1, 4)
    return total


def random_instance(
    rng: np.random.Generator, *, groups: int, widest: int, quantizers: int, latency: bool, energy: bool = False
) -> Instance:
    """Shapes, rates and times drawn so that ties, dominated options and missing rows all occur."""
    instance = Instance()
    for at in range(quantizers):
        bits = Fraction(int(rng.integers(4, 33)), 4)
        loss = float(rng.choice([0.5, 0.1, 0.02, 4.0 ** -float(bits)]))
        book, per_row = int(rng.choice([0, 8, 100])), int(rng.choice([0, 2]))
        instance.quantizers.append((f"q-{at}", bits, book, loss, per_row))
    shapes = {part: int(rng.integers(1, 30)) for part in PARTS}
    for group in range(groups):
        width = int(rng.integers(1, widest + 1))
        for part in PARTS[:width]:
            a = float(rng.choice([0.0, 1.0, 2.5, float(rng.lognormal())]))
            instance.layers.append((f"model.layers.{group}.attn.{part}", shapes[part], 13, f"group{group}", a))
    if latency:
        instance.constant = int(rng.integers(0, 500))
        for size in range(1, len(PARTS) + 1):
            for members in itertools.combinations(PARTS, size):
                for quantizer, kernel in itertools.product(instance.quantizers, KERNELS):
                    if rng.random() < (0.9 if size == 1 else 0.5) or (size == 1 and quantizer[0] == "q-0"):
                        time = int(rng.integers(1, 60)) * size
                        instance.latency[frozenset(members), quantizer[0], kernel] = time
    if energy:
        for layer, quantizer in itertools.product(instance.layers, instance.quantizers):
            instance.energy[layer[0], quantizer[0]] = int(rng.integers(1, 50))
    return instance
