r"""The layers of a model as live matrices: W_l (out, in), its fusion group, and the table of all of them.

Layers of one fusion group multiply the same vector, [W_q; W_k; W_v] x, so that any subset may become one product.

The ends of a model, embedding and head, are layers where that is asked for. A tied weight is one layer, named by the
head: its product is what it costs, the look-up of a row is nothing beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from quantizers.models.families import BLOCK, Family, family_of

COLUMNS = ("layer", "out_features", "in_features", "fusion_group", "sensitivity")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSlot:
    """A layer of a model. `parameter[index]` is its matrix: the whole parameter of a linear, a slice of an expert's.

    `multiplies` is False of an embedding that is no head: its rows are looked up, and it reads no vector."""

    name: str
    fusion_group: str
    parameter: nn.Parameter
    index: tuple[int | slice, ...] = ()
    multiplies: bool = True

    @property
    def in_block(self) -> bool:
        """False of the ends."""
        return BLOCK.fullmatch(self.name) is not None

    @property
    def weight(self) -> torch.Tensor:
        """(out, in), a view outside autograd: writing into it changes the model."""
        return self.parameter.detach()[self.index]


def linear_slots(model: nn.Module, *, head: bool = False) -> dict[str, LinearSlot]:
    """The layers that may be quantized, in model order, without routers; with `head` the ends among them: the embedding
    first, the head (which is both where they are tied) last.

    ValueError for an unsupported family, or a linear that the family's table does not name."""
    blocks = block_slots(model)
    if not head:
        return blocks
    ends = end_slots(model)
    first = {name: slot for name, slot in ends.items() if not slot.multiplies}
    return first | blocks | {name: slot for name, slot in ends.items() if slot.multiplies}


def chosen_slots(model: nn.Module, names: Collection[str]) -> dict[str, LinearSlot]:
    """What a plan or a checkpoint that names these layers is about: all of the blocks, and the ends that it names.

    ValueError as `linear_slots`."""
    return {name: slot for name, slot in linear_slots(model, head=True).items() if slot.in_block or name in names}


def end_slots(model: nn.Module) -> dict[str, LinearSlot]:
    """Embedding and head, by their modules' names; of a tied weight the head alone. Those that are packed are none."""
    names = {id(module): path for path, module in model.named_modules()}
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    slots: dict[str, LinearSlot] = {}
    if isinstance(head, nn.Linear):
        name = names[id(head)]
        slots[name] = LinearSlot(name=name, fusion_group=name, parameter=head.get_parameter("weight"))
    if isinstance(embedding, nn.Embedding) and all(slot.parameter is not embedding.weight for slot in slots.values()):
        name = names[id(embedding)]
        slots[name] = LinearSlot(
            name=name, fusion_group=name, parameter=embedding.get_parameter("weight"), multiplies=False
        )
    return slots


def block_slots(model: nn.Module) -> dict[str, LinearSlot]:
    """The layers of the blocks. ValueError as `linear_slots`."""
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


def inventory(model: nn.Module, *, head: bool = False) -> pd.DataFrame:
    """layers.csv: one row a layer, the embedding first and lm_head last, no sensitivity. A tied weight is one row: with
    `head`, where it is a layer (`linear_slots`), by the name of the head, else by that of the embedding."""
    slots = linear_slots(model, head=True)
    rows = [(slot.name, *slot.weight.shape, slot.fusion_group, None) for slot in slots.values()]
    if not head and all(slot.multiplies for slot in slots.values()):
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        name = next(path for path, module in model.named_modules() if module is embedding)
        rows = [(name, *embedding.weight.shape, name, None), *rows[:-1]]
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def model_family(model: nn.Module) -> Family:
    """The family by `model.config.model_type`."""
    return family_of(str(model.config.model_type))  # type: ignore[union-attr]
