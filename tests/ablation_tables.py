"""A small tables folder with real quantizer names, for the tests of studies: two blocks, latency, near-ideal codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATES = {
    "nuq": (2.0, 3.0, 4.0, 5.0),
    "vq": (2.0, 2.5, 3.0, 4.0),
    "tcq": (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0),
    "half-tcq": (1.75, 2.25, 2.75, 3.25, 3.75, 4.25),
    "trellis": (1.25, 1.75, 2.25, 2.75, 3.25, 4.25, 5.0),
}
FACTOR = {"nuq": 2.2, "vq": 1.9, "tcq": 1.2, "half-tcq": 1.2, "trellis": 1.1}  # distortion over 4^-rate
LAYERS = (
    ("self_attn.q_proj", 32, 32, "qkv"), ("self_attn.k_proj", 16, 32, "qkv"), ("self_attn.v_proj", 16, 32, "qkv"),
    ("self_attn.o_proj", 32, 32, "o"), ("mlp.down_proj", 32, 96, "down"),
)  # fmt: skip
MEMBERS = (
    "q_proj", "k_proj", "v_proj", "q_proj+k_proj", "q_proj+v_proj", "k_proj+v_proj", "q_proj+k_proj+v_proj", "o_proj",
    "down_proj",
)  # fmt: skip


def names() -> dict[str, tuple[float, float]]:
    """Quantizer -> (bits per weight, distortion)."""
    return {
        f"{family}-{rate:g}": (rate, FACTOR[family] * 4.0**-rate) for family, rates in RATES.items() for rate in rates
    }


def write_tables(folder: Path, *, latency: bool = True, families: tuple[str, ...] = tuple(RATES)) -> Path:
    """The folder, with latency.csv where asked: 1 us a block and 1 us for 512 weights at 16 bits, per kernel a factor
    that falls for one and rises for the other with the rate."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f"model.layers.{block}.{name},{out},{into},model.layers.{block}.{group},{rng.lognormal():.6f}"
        for block in range(2)
        for name, out, into, group in LAYERS
    ]
    head = "layer,out_features,in_features,fusion_group,sensitivity\n"
    (folder / "layers.csv").write_text(head + "\n".join(rows) + "\n")
    kept = {name: values for name, values in names().items() if name.rsplit("-", 1)[0] in families}
    lines = [f"{name},{bits!r},0,{distortion!r}" for name, (bits, distortion) in kept.items()]
    (folder / "quantizers.csv").write_text(
        "quantizer,bits_per_weight,codebook_bytes,distortion\n" + "\n".join(lines) + "\n"
    )
    if latency:
        sizes = {name.rsplit(".", 1)[-1]: out * into for name, out, into, _ in LAYERS}
        text = "members,quantizer,kernel,batch,latency_us\nconstant,,,1,10\n"
        for members in MEMBERS:
            weights = sum(sizes[part] for part in members.split("+"))
            for name, (bits, _) in kept.items():
                for kernel, factor in (("tensor-core", 1.0 + 0.1 * bits), ("cuda-core", 1.6 - 0.1 * bits)):
                    text += f"{members},{name},{kernel},1,{1 + factor * weights * bits / 8192:.6f}\n"
        (folder / "latency.csv").write_text(text)
    return folder
