r"""The layers of a model as live matrices: W_l (out, in), its fusion group, and the table of all of them.

Layers of one fusion group multiply the same vector, [W_q; W_k; W_v] x, so that any subset may become one product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from quantizers.models.families import BLOCK, Family, family_of

COLUMNS = ("layer", "out_features", "in_features", "fusion_group", "sensitivity")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSlot:
    """A layer of a model. `parameter[index]` is its matrix: the whole parameter of a linear, a slice of an expert's."""

    name: str
    fusion_group: str
    parameter: nn.Parameter
    index: tuple[int | slice, ...] = ()

    @property
    def weight(self) -> torch.Tensor:
        """(out, in), a view outside autograd: writing into it changes the model."""
        return self.parameter.detach()[self.index]


def linear_slots(model: nn.Module) -> dict[str, LinearSlot]:
    """The layers that may be quantized, in model order, without embeddings, lm_head and routers.

    ValueError for an unsupported family, or a linear that the family's table does not name."""
    family = model_family(model)
    slots: dict[str, LinearSlot] = {}
    head = model.get_output_embeddings()  # type: ignore[operator]
    for path, module in model.named_modules():
        match = BLOCK.fullmatch(path)
        if match is None or module is head:
            continue
        block, suffix = match["block"], match["suffix"]
        if suffix == family.experts:
            slots |= {slot.name: slot for slot in expert_slots(path, module)}
        elif suffix in family.groups and isinstance(module, nn.Linear):
            group = f"{block}.{family.groups[suffix]}"
            slots[path] = LinearSlot(name=path, fusion_group=group, parameter=module.get_parameter("weight"))
        elif isinstance(module, nn.Linear) and suffix not in family.unallocated:
            raise ValueError(
                f"{path!r} is a linear that the table of its family does not name: {sorted(family.groups)}"
            )
    return slots


def expert_slots(path: str, module: nn.Module) -> Iterator[LinearSlot]:
    """Gate, up and down of every expert of one block: views of gate_up_proj (E, 2I, H) and down_proj (E, H, I)."""
    gate_up, down = module.get_parameter("gate_up_proj"), module.get_parameter("down_proj")
    for expert in range(gate_up.shape[0]):
        for part in ("gate", "up", "down"):
            yield LinearSlot(
                name=f"{path}.{expert}.{part}_proj",
                fusion_group=f"{path}.{expert}.{'down' if part == 'down' else 'gate_up'}",
                parameter=down if part == "down" else gate_up,
                index=expert_index(expert, part, gate_up.shape[1] // 2),
            )


def expert_index(expert: int, part: str, intermediate: int) -> tuple[int | slice, ...]:
    """Where an expert's matrix is in its fused parameter: gate above up, `intermediate` rows each."""
    rows = {"gate": slice(0, intermediate), "up": slice(intermediate, 2 * intermediate)}
    return (expert, rows[part]) if part in rows else (expert,)


def inventory(model: nn.Module) -> pd.DataFrame:
    """layers.csv: one row a layer, the embedding first and lm_head last (a tied weight is one row), no sensitivity."""
    slots = linear_slots(model)
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    names = {id(module): path for path, module in model.named_modules()}
    ends = [(names[id(embedding)], embedding.weight)]
    if head is not None and head.weight is not embedding.weight:
        ends.append((names[id(head)], head.weight))
    rows = [(name, *weight.shape, name, None) for name, weight in ends]
    layers = [(slot.name, *slot.weight.shape, slot.fusion_group, None) for slot in slots.values()]
    return pd.DataFrame([rows[0], *layers, *rows[1:]], columns=pd.Index(COLUMNS))


def model_family(model: nn.Module) -> Family:
    """The family by `model.config.model_type`."""
    return family_of(str(model.config.model_type))  # type: ignore[union-attr]
