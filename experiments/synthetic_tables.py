r"""Tables folders made up for benchmarks, so that one who has no measured tables can run them.

Layers: the shapes of a transformer block, repeated, with lognormal sensitivities (sigma 1). Quantizers: four families,
each at a fixed gap to the distortion-rate function, D = 10^(gap/10) 4^-R, near those of published codes. Latency: 2 us
a launch and the bytes at 0.6 TB/s, with 3 % noise by quantizer, so that fusion saves launches. It stands in for a
measurement only where a solver is timed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

# part -> (out_features, in_features, fusion group): the blocks of Llama-3.1-8B and Llama-3.1-405B, an expert
Shapes = Mapping[str, tuple[int, int, str]]
BLOCK_8B: Shapes = {
    "self_attn.q_proj": (4096, 4096, "qkv"),
    "self_attn.k_proj": (1024, 4096, "qkv"),
    "self_attn.v_proj": (1024, 4096, "qkv"),
    "self_attn.o_proj": (4096, 4096, "o"),
    "mlp.gate_proj": (14336, 4096, "gate_up"),
    "mlp.up_proj": (14336, 4096, "gate_up"),
    "mlp.down_proj": (4096, 14336, "down"),
}
BLOCK_405B: Shapes = {
    "self_attn.q_proj": (16384, 16384, "qkv"),
    "self_attn.k_proj": (1024, 16384, "qkv"),
    "self_attn.v_proj": (1024, 16384, "qkv"),
    "self_attn.o_proj": (16384, 16384, "o"),
    "mlp.gate_proj": (53248, 16384, "gate_up"),
    "mlp.up_proj": (53248, 16384, "gate_up"),
    "mlp.down_proj": (16384, 53248, "down"),
}
EXPERT: Shapes = {
    "gate_proj": (2048, 7168, "gate_up"),
    "up_proj": (2048, 7168, "gate_up"),
    "down_proj": (7168, 2048, "down"),
}
# family -> (rates, gap in dB, kernels)
FAMILIES: Mapping[str, tuple[tuple[float, ...], float, tuple[str, ...]]] = {
    "tcq": (tuple(np.arange(1.5, 5.1, 0.5)), 0.8, ("tensor-core",)),
    "half-tcq": (tuple(np.arange(1.75, 4.8, 0.5)), 1.2, ("tensor-core",)),
    "vq": (tuple(np.arange(1.5, 6.1, 0.5)), 2.8, ("tensor-core", "cuda-core")),
    "nuq": (tuple(np.arange(2.0, 8.1, 1.0)), 3.8, ("tensor-core", "cuda-core")),
}
CODEBOOK_BYTES = {"tcq": 2048, "half-tcq": 4096, "vq": 512, "nuq": 64}
LAUNCH_US, BYTES_PER_US, REST_US = 2.0, 6e5, 500.0


def write_synthetic(
    folder: Path,
    shapes: Shapes = BLOCK_8B,
    *,
    blocks: int = 32,
    experts: int = 0,
    digits: int | None = None,
    quantizers: str | None = None,
    seed: int = 0,
) -> Path:
    """A tables folder of `blocks` blocks (of `experts` experts each, then without latency.csv); the folder.

    `digits`: sensitivities rounded to so many significant digits, for ties; `quantizers`: the text of a quantizers.csv
    in the place of the made-up one."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    prefixes = [
        f"model.layers.{block}" + (f".mlp.experts.{expert}" if experts else "")
        for block in range(blocks)
        for expert in range(experts or 1)
    ]
    sensitivity = iter(rng.lognormal(0.0, 1.0, len(prefixes) * len(shapes)).tolist())
    lines = ["layer,out_features,in_features,fusion_group,sensitivity"]
    for prefix in prefixes:
        for part, (rows, columns, group) in shapes.items():
            value = next(sensitivity)
            shown = value if digits is None else float(f"{value:.{digits}g}")
            lines.append(f"{prefix}.{part},{rows},{columns},{prefix}.{group},{shown!r}")
    (folder / "layers.csv").write_text("\n".join(lines) + "\n")
    (folder / "quantizers.csv").write_text(quantizers if quantizers is not None else _quantizers())
    if not experts and quantizers is None:
        (folder / "latency.csv").write_text(_latency(shapes, rng))
    return folder


def _quantizers() -> str:
    lines = ["quantizer,bits_per_weight,codebook_bytes,distortion"]
    for family, (rates, gap, _) in FAMILIES.items():
        lines += [
            f"{family}-{rate:g},{rate:g},{CODEBOOK_BYTES[family]},{float(10 ** (gap / 10) * 4.0**-rate)!r}"
            for rate in rates
        ]
    return "\n".join(lines) + "\n"


def _latency(shapes: Shapes, rng: np.random.Generator) -> str:
    lines = ["members,quantizer,kernel,batch,latency_us", f"constant,,,1,{REST_US}"]
    groups: dict[str, list[str]] = {}
    for part, (_, _, group) in shapes.items():
        groups.setdefault(group, []).append(part)
    for parts in groups.values():
        for size in range(1, len(parts) + 1):
            for members in combinations(parts, size):
                weights = sum(shapes[part][0] * shapes[part][1] for part in members)
                name = "+".join(part.rsplit(".", 1)[-1] for part in members)
                for family, (rates, _, kernels) in FAMILIES.items():
                    for rate in rates:
                        for kernel in kernels:
                            read = weights * rate / 8 / BYTES_PER_US * rng.uniform(0.97, 1.03)
                            lines.append(f"{name},{family}-{rate:g},{kernel},1,{LAUNCH_US + read:.4f}")
    return "\n".join(lines) + "\n"
