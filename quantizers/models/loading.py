"""A model from any source: built without memory from its config, then filled tensor by tensor.

Only one tensor of the file is in memory besides the model itself. Every floating tensor is checked finite when it is
read. Experts, which files hold one by one, are written into their slices of the fused parameters. Buffers that no file
holds (rotary frequencies) are computed by the model's own constructor, so that only parameters start without memory."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantizers.models.empty import empty_model
from quantizers.models.families import EMBEDDING, HEAD, Family, family_of
from quantizers.models.folder import SafetensorsFolder
from quantizers.models.location import check_sha256, resolve_model
from quantizers.models.slots import expert_index
from quantizers.models.source import WeightSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A causal language model in eval mode whose parameters ask for no gradients, and where it came from.

    `model` is a `PreTrainedModel`; `tokenizer` is None where the source holds none; `source_dtype` is how the file
    stores most weights (`bfloat16`, `GGUF Q4_1`), whatever the dtype of the model."""

    model: Any
    tokenizer: Any
    path: Path
    source_dtype: str


def load_model(
    path: str | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    verify_sha256: str | None = None,
) -> LoadedModel:
    """Load `path` (see `location`). FileNotFoundError if it is absent; ValueError for an unsupported family, a wrong
    hash, a tensor that is missing, damaged, misshapen, NaN or infinite (named)."""
    if path is None:
        raise ValueError("this model is an architecture without weights; name some by model.path=FOLDER_OR_HUB_ID")
    found = resolve_model(path)
    if verify_sha256 is not None:
        check_sha256(found, verify_sha256)
    source = open_source(found)
    family = family_of(source.model_type())
    config = source.config()
    text_config = config.get_text_config()
    keep_a_head_of_its_own(text_config, source, family)
    model = empty_model(text_config, dtype)
    fill(model, source, family, dtype=dtype, device=torch.device(device))
    model.to(device)  # buffers; the parameters are there already
    generation = source.generation_config()
    if generation is not None:
        model.generation_config = generation
    model.eval().requires_grad_(False)
    return LoadedModel(model=model, tokenizer=source.tokenizer(), path=found, source_dtype=source.source_dtype)


def open_source(path: Path) -> WeightSource:
    """The reader for a resolved path."""
    if path.is_dir():
        return SafetensorsFolder(path)
    if path.suffix.lower() == ".gguf":
        from quantizers.models.gguf_file import GgufFile

        return GgufFile(path)
    raise ValueError(f"{path} is neither a model folder nor a .gguf file")


def fill(model: Any, source: WeightSource, family: Family, *, dtype: torch.dtype, device: torch.device) -> None:
    """Stream every tensor of `source` into `model`; tie what the config ties. ValueError names an offending tensor."""
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    shapes = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False) if name not in tied}
    missing = {name: shape.numel() for name, shape in shapes.items()}
    unused: list[str] = []
    for stored, name in model_names(source, family).items():
        if name in tied:
            continue
        target, index = placement(name, shapes, family)
        if target not in shapes:
            unused.append(stored)
            continue
        values = read(source, stored)
        place(model, target, index, values.to(device, dtype), shapes[target], stored)
        missing[target] -= values.numel()
    absent = [name for name, count in missing.items() if count != 0]
    if absent:
        raise ValueError(
            f"the file lacks {len(absent)} tensors of the model (or parts of them), the first: {absent[0]!r}"
        )
    model.tie_weights()
    if unused:
        log.warning("%d tensors of the file are not used by the model, the first: %s", len(unused), unused[0])


def model_names(source: WeightSource, family: Family) -> dict[str, str]:
    """The file's name of a tensor -> the model's, without what the family ignores."""
    renamed = {stored: family.rename(stored) for stored in source.names}
    return {stored: name for stored, name in renamed.items() if name is not None}


def placement(name: str, shapes: Mapping[str, torch.Size], family: Family) -> tuple[str, tuple[int | slice, ...]]:
    """The parameter that a tensor belongs to, and where in it: `...experts.3.w1.weight` -> gate rows of expert 3."""
    match = re.fullmatch(rf"(.*\.{family.experts})\.(\d+)\.(\w+)\.weight", name) if family.experts else None
    if match is None or match[3] not in family.expert_names:
        return name, ()
    part = family.expert_names[match[3]]
    target = f"{match[1]}.{'down_proj' if part == 'down' else 'gate_up_proj'}"
    if target not in shapes:
        return name, ()
    experts = shapes[target][0]
    if int(match[2]) >= experts:
        raise ValueError(f"tensor {name!r}: the model has {experts} experts a block")
    return target, expert_index(int(match[2]), part, shapes[target][1] // 2)


def read(source: WeightSource, name: str) -> torch.Tensor:
    """One tensor of the file, every value finite."""
    values = source.tensor(name)
    if values.numel() and not torch.isfinite(torch.stack(torch.aminmax(values))).all():  # NaN wins in both
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(f"tensor {name!r} holds {bad} NaN or infinite values of {values.numel()}; accepted: finite")
    return values


def place(
    model: nn.Module, target: str, index: tuple[int | slice, ...], values: torch.Tensor, shape: torch.Size, stored: str
) -> None:
    """Make `values` the parameter `target`, or copy them into the slice `index` of it. ValueError on a wrong shape."""
    expected = torch.empty(shape, device="meta")[index].shape
    if values.shape != expected:
        raise ValueError(f"tensor {stored!r} has shape {tuple(values.shape)}, the model's is {tuple(expected)}")
    if model.get_parameter(target).is_meta:
        whole = torch.empty(shape, dtype=values.dtype, device=values.device) if index else values
        module, _, leaf = target.rpartition(".")
        model.get_submodule(module).register_parameter(leaf, nn.Parameter(whole, requires_grad=False))
    if index:
        model.get_parameter(target).detach()[index].copy_(values)


def keep_a_head_of_its_own(config: Any, source: WeightSource, family: Family) -> None:
    """A file may hold an lm_head beside a config that ties it. Tied only if the two are equal, as transformers does."""
    stored = {name: file_name for file_name, name in model_names(source, family).items()}
    head, embedding = stored.get(f"{HEAD}.weight"), stored.get(f"{EMBEDDING}.weight")
    if config.tie_word_embeddings and head and embedding:
        config.tie_word_embeddings = torch.equal(read(source, head), read(source, embedding))
