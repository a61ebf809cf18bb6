r"""Model surgery: members of a fused unit become one product, and layers of a fusion group rotate their input once.

A unit is the names of layers that an allocation fuses (`fused_with`), any subset of a fusion group: q and k, or q, k
and v, or gate and up. A unit takes the bytes of its members, whose own codes go away."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from quantizers.linear import QuantizedLinear
from quantizers.models.families import BLOCK
from quantizers.models.slots import model_family
from quantizers.modules.fused import FusedMember
from quantizers.modules.handover import Handover
from quantizers.modules.stacking import check_stackable, stacked
from quantizers.rotation import Rotation

Unit = tuple[str, ...]


class Planned(Protocol):
    """What a plan says of a layer: a choice of allocation.json, or a record of a checkpoint."""

    @property
    def fused_with(self) -> tuple[str, ...]:
        """Names of the other layers of its unit."""


def fused_units(plan: Mapping[str, Planned]) -> list[Unit]:
    """The units of two or more layers, each in the order of the plan, by their first layers.

    ValueError where two layers do not agree on what is fused."""
    units: dict[Unit, None] = {}
    order = {name: at for at, name in enumerate(plan)}
    for name, choice in plan.items():
        members = {name, *choice.fused_with}
        for other in choice.fused_with:
            if other not in plan or {other, *plan[other].fused_with} != members:
                raise ValueError(f"{name} is fused with {', '.join(choice.fused_with)}; {other} does not say so")
        if len(members) > 1:
            units[tuple(sorted(members, key=order.__getitem__))] = None
    return list(units)


def units_of(plan: Mapping[str, Planned], layers: Collection[str]) -> list[Unit]:
    """The fused units of these layers; those of other layers (experts, slices of dense tensors) are left out.

    ValueError where a unit has layers of both kinds, or as `fused_units`."""
    units = fused_units(plan)
    for unit in units:
        odd = [name for name in unit if name not in layers]
        if odd and len(odd) < len(unit):
            raise ValueError(f"{odd[0]} is no packed linear of the model; it cannot be fused with {unit[0]}")
    return [unit for unit in units if unit[0] in layers]


def fuse(model: nn.Module, units: Iterable[Sequence[str]]) -> None:
    """Change the model in place: every unit becomes one product, and inputs of a fusion group are rotated once, fused
    or not. Members may be named in any order, and are stacked in that of the model. No logits change but by rounding.

    ValueError names a layer that is not packed, is in two units, or cannot be one product with the others of its unit
    (another fusion group, quantizer, rotation or device; rows that are no multiple of 16); the model is then as it
    was."""
    packed = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    order = {name: at for at, name in enumerate(packed)}
    chosen: list[Unit] = []
    seen: set[str] = set()
    for unit in units:
        for name in unit:
            if name not in packed:
                raise ValueError(f"{name!r} is no packed linear of the model, or is fused already")
            if name in seen:
                raise ValueError(f"{name!r} is fused twice")
            seen.add(name)
        chosen.append(tuple(sorted(unit, key=order.__getitem__)))
        check_unit(model, chosen[-1], packed)
    for unit in chosen:
        replace_members(model, unit, fused_product([packed.pop(name) for name in unit]))
    share_rotations(model)


def check_unit(model: nn.Module, unit: Unit, packed: Mapping[str, QuantizedLinear]) -> None:
    """ValueError, naming the layer, unless the members can be one product."""
    if len(unit) < 2:
        raise ValueError(f"a fused unit has at least two layers, not {list(unit)}")
    first = facts(model, unit[0], packed[unit[0]])
    for name in unit:
        for what, value in facts(model, name, packed[name]).items():
            if value != first[what]:
                raise ValueError(f"{name} cannot be fused with {unit[0]}: its {what} is {value}, not {first[what]}")
        try:
            check_stackable(packed[name].quantizer, packed[name].out_features)
        except ValueError as error:
            raise ValueError(f"{name} cannot be fused: {error}") from None


def facts(model: nn.Module, name: str, layer: QuantizedLinear) -> dict[str, object]:
    """What the members of a unit have in common."""
    return {
        "fusion group": fusion_group(model, name),
        "quantizer": layer.quantizer.settings(),  # the codebook's fingerprint is in there
        "rotation": layer.rotation,
        "width": layer.in_features,
        "device": next(layer.buffers()).device,
    }


def fusion_group(model: nn.Module, name: str) -> str:
    """Of a layer, by the table of the model's family; its own name where it reads an input alone."""
    match = BLOCK.fullmatch(name)
    groups = model_family(model).groups
    return f"{match['block']}.{groups[match['suffix']]}" if match and match["suffix"] in groups else name


def fused_product(members: Sequence[QuantizedLinear]) -> QuantizedLinear:
    """One layer of all rows. A member without bias has one of zeros where others have one."""
    first = members[0]
    whole = stacked(first.quantizer, [member.encoded for member in members])
    biases = [member.bias for member in members if member.bias is not None]
    bias = None
    if biases:
        like = biases[0]
        parts = [like.new_zeros(m.out_features) if m.bias is None else m.bias.to(like) for m in members]
        bias = torch.cat(parts)
    return QuantizedLinear(first.quantizer, whole, first.rotation, bias)


def replace_members(model: nn.Module, unit: Unit, product: QuantizedLinear) -> None:
    """Put a `FusedMember` in the place of every layer of the unit, which frees their codes."""
    layers = [model.get_submodule(name) for name in unit]
    rows = [int(layer.out_features) for layer in layers]  # type: ignore[arg-type]
    handover = Handover(unit)
    for index, (name, layer) in enumerate(zip(unit, layers, strict=True)):
        parent, _, leaf = name.rpartition(".")
        member = FusedMember(product, rows, handover, index).train(layer.training)
        setattr(model.get_submodule(parent), leaf, member)


def share_rotations(model: nn.Module) -> None:
    """Let the layers with one rotation, which read one input, compute it once."""
    groups: dict[Rotation, dict[str, QuantizedLinear]] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear) and module.rotation is not None:
            groups.setdefault(module.rotation, {})[name] = module
    for layers in groups.values():
        handover = Handover(tuple(layers)) if len(layers) > 1 else None
        for taker, layer in enumerate(layers.values()):
            layer.share_rotation(handover, taker)
