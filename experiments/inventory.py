"""`python -m experiments.inventory [model=NAME | model.path=PATH] out=DIR`: a model's layers -> layers.csv.

The tables folder begins here: shapes and fusion groups, with the sensitivities left empty. One row of the printed table
stands for all layers of one kind (their names without numbers) and shape. `inventory.head=true` makes embedding and
head layers to quantize too: rows of their own, or one, `lm_head`, of a tied weight. A model that is an architecture
alone (`model=llama-3.1-8b`) needs no weights; config.json is written too, for `quantizers.kernels.decode_step`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import AutoConfig

from experiments.entry import run, save_run
from experiments.workspace import write_csv
from quantizers.models import inventory, linear_slots, load_model
from quantizers.models.empty import empty_model


def main(cfg: DictConfig) -> None:
    """Load the model, write `out/layers.csv` and `out/run.json`, print a table. Nothing is written on a bad model."""
    folder = Path(cfg.out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} is a file; it must be a folder")
    facts = cfg.model.get("architecture")
    if facts is None:
        loaded = load_model(cfg.model.path, verify_sha256=cfg.model.sha256)
        model, name, dtype = loaded.model, loaded.path.name, loaded.source_dtype
    else:
        model, name, dtype = architecture(OmegaConf.to_container(facts)), "shapes alone", "no weights"
    layers = inventory(model, head=cfg.inventory.head)
    write_csv(layers, folder / "layers.csv")
    if facts is not None:
        model.config.save_pretrained(folder)
    save_run(folder, cfg, source_dtype=dtype, model_type=model.config.model_type)
    print(describe(model, name, dtype, layers, head=cfg.inventory.head))


def architecture(facts: object) -> nn.Module:
    """A model without weights. ValueError where the facts name no architecture of transformers."""
    if not isinstance(facts, dict) or "model_type" not in facts:
        raise ValueError("model.architecture is what a config.json says, with model_type")
    model: nn.Module = empty_model(AutoConfig.for_model(**facts), torch.float16)
    return model


def describe(model: nn.Module, name: str, dtype: str, layers: pd.DataFrame, *, head: bool) -> str:
    """Layers by kind and shape, and what may be quantized."""
    kinds = by_kind(layers)
    slots = linear_slots(model, head=head)
    parameters = sum(slot.weight.numel() for slot in slots.values())
    groups = len({slot.fusion_group for slot in slots.values()})
    title = f"{name}: {model.config.model_type}, stored as {dtype}"  # type: ignore[union-attr]
    foot = f"to quantize: {len(slots)} layers in {groups} fusion groups, {parameters:,} weights"
    return f"{title}\n{kinds.to_string(index=False)}\n{foot}"


def by_kind(layers: pd.DataFrame) -> pd.DataFrame:
    """One row for the layers that share a kind and a shape, in model order: kind, shape, layers, weights."""
    # `model.layers.3.mlp.experts.7.up_proj` and all its like are of the kind `mlp.experts.up_proj`
    names = layers["layer"].str.replace(r"\.\d+(?=\.)", "", regex=True).str.removeprefix("model.layers.")
    shape = layers["out_features"].astype(str) + " x " + layers["in_features"].astype(str)
    weights = layers["out_features"] * layers["in_features"]
    frame = pd.DataFrame({"kind": names, "out x in": shape, "weights": weights})
    grouped = frame.groupby(["kind", "out x in"], sort=False)["weights"]
    return grouped.agg(layers="size", weights="sum").reset_index()


if __name__ == "__main__":
    run(main, "inventory")
