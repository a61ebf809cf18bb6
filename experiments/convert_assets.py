"""`python -m experiments.convert_assets sensitivities=FILE distortions=FILE [latencies=FILE] out=DIR`: a tables folder.

Reads the asset files of the paper's public repository (github.com/snu-mllab/Q-Palette, `assets/*.pt` and
`msq_results/**/*.pt`), which are pickles of dictionaries, by torch's restricted loader: it builds numbers, strings and
tensors and executes nothing else. Their layout:

    *_err_coeffs.pt      {"BLOCK_self_attn.q_proj": sensitivity, ..., "constant": 0}
    quant_err.pt         {"tcq_6_none_0.9": distortion, ...}
    *_latency_coeffs*.pt {"constant": seconds, "qkv_tcq_6_none_0.9_False": seconds, ...}; True: CUDA cores
    plan                 {"BLOCK_LAYER": "tcq_6_none_0.9" or (that, "1" for CUDA cores), ...}
    plan's merge info    a list of ["merge_qk", ...], one for each block

A quantizer's name there is `tcq_K_..` with K new bits for two weights, `tcomb_K_K'_..` (half the columns each), or
`ldlq_V_B_..`: B bits for V weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig

from alloc.choice import Choice
from alloc.solution import write_allocation
from alloc.tables import read_tables
from experiments.entry import run, save_run
from experiments.paper.plan_source import repriced
from experiments.workspace import write_csv

PARTS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "g": "mlp.gate_proj", "u": "mlp.up_proj", "d": "mlp.down_proj",
}  # fmt: skip
GROUPS = {"q": "self_attn.qkv", "k": "self_attn.qkv", "v": "self_attn.qkv", "o": "self_attn.o",
          "g": "mlp.gate_up", "u": "mlp.gate_up", "d": "mlp.down"}  # fmt: skip
KERNELS = {False: "tensor-core", True: "cuda-core"}


def main(cfg: DictConfig) -> None:
    """Read, convert, write, and read the folder back as the solvers do."""
    out = Path(cfg.out)
    shape = {key: int(value) for key, value in cfg.shape.items()}
    layers = layer_rows(loaded(cfg.sensitivities, dict), shape)
    quantizers = quantizer_rows(loaded(cfg.distortions, dict))
    latency = None if cfg.latencies is None else latency_rows(loaded(cfg.latencies, dict))
    plans = {
        str(name): plan_choices(loaded(files.choices, dict), loaded(files.merges, list))
        for name, files in cfg.plans.items()
    }
    write_csv(layers, out / "layers.csv")
    write_csv(quantizers, out / "quantizers.csv")
    if latency is not None:
        write_csv(latency, out / "latency.csv")
    tables = read_tables(out)
    for name, choices in plans.items():
        write_allocation(out / f"{name}.json", repriced(tables, choices), tables)
    save_run(out, cfg)
    print(f"{out}: {len(layers)} layers, {len(quantizers)} quantizers, {0 if latency is None else len(latency)} times, "
          f"{len(plans)} plans")  # fmt: skip


def loaded(path: str, kind: type) -> Any:
    """The `kind` that a file holds. ValueError where it holds anything else, or would have to be executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{path} is no file of numbers: {str(error).splitlines()[0]}") from None
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a {kind.__name__}")
    return content


def quantizer_facts(name: str) -> tuple[str, float, int]:
    """(our name, bits per weight, bytes of the table) of a published name. ValueError for another."""
    words = name.split("_")
    try:
        if words[0] == "tcq":
            new_bits = int(words[1])
            return f"tcq-{new_bits / 2:g}", new_bits / 2, pair_table(new_bits)
        if words[0] == "tcomb":
            low, high = int(words[1]), int(words[2])
            return f"half-tcq-{(low + high) / 4:g}", (low + high) / 4, pair_table(high)
        if words[0] == "ldlq":
            length, bits = int(words[1]), int(words[2])
            family = {1: "nuq", 2: "vq"}[length]
            return f"{family}-{bits / length:g}", bits / length, 2**bits * length * 2
    except (ValueError, IndexError, KeyError):
        pass
    raise ValueError(f"{name!r} is not the name of a published quantizer")


def pair_table(new_bits: int) -> int:
    """Bytes of the table of half-precision pairs: 512 entries up to 8 new bits, twice as many for each bit above."""
    return 4 * 2 ** (9 if new_bits <= 8 else new_bits + 1)


def layer_rows(sensitivities: Mapping[str, Any], shape: Mapping[str, int]) -> pd.DataFrame:
    """layers.csv. shape: hidden, intermediate, key_value features."""
    hidden, wide, narrow = shape["hidden"], shape["intermediate"], shape["key_value"]
    sizes = {"q": (hidden, hidden), "k": (narrow, hidden), "v": (narrow, hidden), "o": (hidden, hidden),
             "g": (wide, hidden), "u": (wide, hidden), "d": (hidden, wide)}  # fmt: skip
    blocks = sorted({int(key.split("_", 1)[0]) for key in sensitivities if key != "constant"})
    rows = []
    for block in blocks:
        for letter, part in PARTS.items():
            key = f"{block}_{part}"
            if key not in sensitivities:
                raise ValueError(f"the sensitivities lack {key}")
            rows.append({
                "layer": f"model.layers.{block}.{part}", "out_features": sizes[letter][0],
                "in_features": sizes[letter][1], "fusion_group": f"model.layers.{block}.{GROUPS[letter]}",
                "sensitivity": float(sensitivities[key]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def quantizer_rows(distortions: Mapping[str, Any]) -> pd.DataFrame:
    """quantizers.csv."""
    rows = [(*quantizer_facts(name), float(value)) for name, value in distortions.items()]
    return pd.DataFrame(rows, columns=["quantizer", "bits_per_weight", "codebook_bytes", "distortion"])


def latency_rows(seconds: Mapping[str, Any]) -> pd.DataFrame:
    """latency.csv, batch 1."""
    rows: list[tuple[str, str, str, int, float]] = []
    for key, value in seconds.items():
        if key == "constant":
            rows.insert(0, ("constant", "", "", 1, 1e6 * float(value)))
            continue
        letters, rest = key.split("_", 1)
        name, on_cores = rest.rsplit("_", 1)
        if set(letters) - set(PARTS) or on_cores not in ("True", "False"):
            raise ValueError(f"{key!r} is not the name of a published time")
        members = "+".join(PARTS[letter].split(".")[1] for letter in PARTS if letter in letters)
        rows.append((members, quantizer_facts(name)[0], KERNELS[on_cores == "True"], 1, 1e6 * float(value)))
    return pd.DataFrame(rows, columns=["members", "quantizer", "kernel", "batch", "latency_us"])


def plan_choices(choices: Mapping[str, Any], merges: Sequence[Sequence[str]]) -> dict[str, Choice]:
    """Layer -> choice of a published plan."""
    fused: dict[str, tuple[str, ...]] = {}
    for number, names in enumerate(merges):
        for merge in names:
            group = [f"model.layers.{number}.{PARTS[letter]}" for letter in merge.removeprefix("merge_")]
            fused |= {layer: tuple(other for other in group if other != layer) for layer in group}
    found = {}
    for key, value in choices.items():
        block, part = key.split("_", 1)
        name, on_cores = (value, "0") if isinstance(value, str) else value
        layer = f"model.layers.{block}.{part}"
        found[layer] = Choice(
            quantizer=quantizer_facts(name)[0], kernel=KERNELS[str(on_cores) == "1"], fused_with=fused.get(layer, ())
        )
    return found


if __name__ == "__main__":
    run(main, "convert_assets")
