r"""A model of random weights from its config alone: codes drawn on the device, the dense weights never made.

Any bits are codes of the quantizers that have a kernel. A row of W has n weights of size one times its scale, n^-1/2,
so that products keep the size of their input and activations stay finite at any depth. Bytes are those of a real model:
sum over units of storage_bytes(rows, in) for the layers, embedding and head as the plan says, and 16 bits elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedConfig

from quantizers import make_quantizer
from quantizers.base import Encoded, Quantizer
from quantizers.checkpoint.surgery import replace
from quantizers.kernels.int8_head import Int8Head
from quantizers.kernels.packed_product import has_kernel
from quantizers.kernels.random_plan import FP16, StepPlan
from quantizers.linear import QuantizedLinear
from quantizers.models import LinearSlot, linear_slots
from quantizers.models.empty import empty_model
from quantizers.models.families import EMBEDDING, HEAD
from quantizers.models.slots import end_slots
from quantizers.modules.fusing import replace_members, share_rotations
from quantizers.rotation import MOST_BLOCK, Rotation

INT8 = "int8"
ROTATION_SEED = 0


def whole_linears(model: nn.Module) -> dict[str, LinearSlot]:
    """The layers of the blocks. ValueError for an unsupported family, or layers that are slices of experts."""
    slots = linear_slots(model)
    for name, slot in slots.items():
        if slot.index:
            raise ValueError(f"{name} is part of a tensor of experts: a step is measured for dense models")
    return slots


def block_layers(config: PreTrainedConfig) -> pd.DataFrame:
    """layer, out_features, in_features, fusion_group of the layers of all blocks, in model order."""
    slots = whole_linears(empty_model(config, torch.float16))
    rows = [(name, *slot.parameter.shape, slot.fusion_group) for name, slot in slots.items()]
    return pd.DataFrame(rows, columns=pd.Index(["layer", "out_features", "in_features", "fusion_group"]))


def random_model(
    config: PreTrainedConfig, plan: StepPlan, *, head: str, dtype: torch.dtype, generator: torch.Generator
) -> nn.Module:
    """The model on the device of the generator, in eval mode. head: fp16, int8, or a quantizer that has a kernel, of a
    plan that does not name it.

    Members of a fused unit of 16 bits are views of one matrix. ValueError as `whole_linears`, `check_head` and
    `put_ends`."""
    check_head(plan.head(head))
    model: nn.Module = empty_model(config, dtype)
    slots = whole_linears(model)
    for unit in plan.units:
        linears = [model.get_submodule(name) for name in unit]
        bias = drawn_bias(linears, dtype, generator)
        rows, columns = [slots[name].parameter.shape[0] for name in unit], slots[unit[0]].parameter.shape[1]
        if plan.choices[unit[0]].quantizer == FP16:
            put_dense(linears, rows, columns, dtype, generator)
            continue
        quantizer = make_quantizer(plan.choices[unit[0]].quantizer)
        product = random_linear(quantizer, sum(rows), columns, slots[unit[0]].fusion_group, generator, bias)
        if len(unit) > 1:
            replace_members(model, unit, product)
        else:
            parent, _, leaf = unit[0].rpartition(".")
            setattr(model.get_submodule(parent), leaf, product)
    put_ends(model, {**plan.ends, HEAD: plan.head(head)}, generator)
    share_rotations(model)
    draw_others(model, dtype, generator)
    return model.to(generator.device).eval()


def check_head(head: str) -> None:
    """ValueError unless it is fp16, int8, or a quantizer that has a kernel."""
    if head not in (FP16, INT8) and not has_kernel(make_quantizer(head)):
        raise ValueError(f"no kernel makes the products of a head of {head}; {FP16}, {INT8} and trellis-6 have one")


def random_linear(
    quantizer: Quantizer, rows: int, columns: int, group: str, generator: torch.Generator, bias: torch.Tensor | None
) -> QuantizedLinear:
    """Random codes on the device of the generator."""
    device, size = generator.device, quantizer.storage_bytes(rows, columns) - 2 * rows
    codes = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device, generator=generator)
    scale = torch.full((rows,), columns**-0.5, dtype=torch.float16, device=device)
    encoded = Encoded(out_features=rows, in_features=columns, tensors={"codes": codes, "row_scale": scale})
    rotation = Rotation(in_features=columns, seed=ROTATION_SEED, group=group, most_block=MOST_BLOCK)
    return QuantizedLinear(quantizer, encoded, rotation, bias)


def drawn_bias(linears: list[nn.Module], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor | None:
    """(rows of all,), None where no member has one; the members' own become parts of it."""
    rows = [linear.get_parameter("weight").shape[0] for linear in linears]
    if all(linear.bias is None for linear in linears):
        return None
    whole = torch.randn(sum(rows), device=generator.device, generator=generator).mul_(0.1).to(dtype)
    for linear, part in zip(linears, torch.split(whole, rows), strict=True):
        if linear.bias is not None:
            linear.bias = nn.Parameter(part, requires_grad=False)
    return whole


def put_dense(
    linears: list[nn.Module], rows: list[int], columns: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Random weights, those of all members in one matrix."""
    whole = torch.empty(sum(rows), columns, dtype=dtype, device=generator.device)
    whole.normal_(0, columns**-0.5, generator=generator)
    for linear, part in zip(linears, torch.split(whole, rows), strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)


def put_ends(model: nn.Module, chosen: Mapping[str, str], generator: torch.Generator) -> None:
    """Replace head and embedding, by their names, where they are not in 16 bits. A tied embedding has the codes of the
    head; int8, which no row is looked up in, leaves it beside the head. ValueError where it is named besides."""
    if chosen.get(HEAD) == INT8:
        rows, columns = model.get_output_embeddings().weight.shape  # type: ignore[operator]
        model.set_output_embeddings(Int8Head.random(rows, columns, generator))  # type: ignore[operator]
    slots = end_slots(model)
    for name, quantizer in chosen.items():
        if quantizer in (FP16, INT8):
            continue
        if name not in slots:
            raise ValueError(f"{name} is tied to {HEAD}, which is what a plan names")
        rows, columns = slots[name].parameter.shape
        replace(model, slots[name], random_linear(make_quantizer(quantizer), rows, columns, name, generator, None))


def draw_others(model: nn.Module, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Embedding, head and norms, those parameters that are on meta still; a tied weight stays one parameter."""
    drawn: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.is_meta:
                continue
            if id(parameter) not in drawn:
                values = torch.empty(parameter.shape, dtype=dtype, device=generator.device)
                if parameter.ndim == 1:  # of a norm
                    values.normal_(1, 0.1, generator=generator)
                else:
                    values.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
                drawn[id(parameter)] = nn.Parameter(values, requires_grad=False)
            module.register_parameter(key, drawn[id(parameter)])


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBytes:
    """Bytes that the weights take, each parameter once. `layers`: of the blocks, codes and scales; `embedding`: 0 where
    it is the head's."""

    layers: int
    codebooks: int
    head: int
    embedding: int
    others: int

    @property
    def total(self) -> int:
        """All."""
        return sum(asdict(self).values())

    @property
    def read(self) -> int:
        """What a step reads: all but the embedding, of which it reads a row a sequence."""
        return self.total - self.embedding


def weight_bytes(model: nn.Module) -> WeightBytes:
    """Exact, of what the model holds; rotary frequencies, which are computed, are no weights."""
    held, tables = {"layers": 0, "head": 0, "embedding": 0, "others": 0}, {}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    parts = {**{id(module): "embedding" for module in embedding.modules()}, id(head): "head"}
    seen: set[int] = set()
    for module in sorted(model.modules(), key=lambda module: module is not head):  # a tied weight is the head's
        own: list[torch.Tensor] = [*module.parameters(recurse=False)]
        if isinstance(module, QuantizedLinear | Int8Head):
            own += list(module.buffers(recurse=False))
        if isinstance(module, QuantizedLinear) and (table := module.quantizer.codebook()) is not None:
            tables[module.quantizer.name] = table.numel() * table.element_size()
        usual = "layers" if isinstance(module, nn.Linear | QuantizedLinear) else "others"
        for tensor in own:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                held[parts.get(id(module), usual)] += tensor.numel() * tensor.element_size()
    return WeightBytes(**held, codebooks=sum(tables.values()))


def planned_bytes(plan: StepPlan, layers: pd.DataFrame) -> int:
    """Bytes of the layers of the blocks, without biases, as the allocator charges them."""
    shapes = zip(layers.layer, layers.out_features, layers.in_features, strict=True)
    return sum(
        make_quantizer(plan.choices[name].quantizer).storage_bytes(int(rows), int(columns))
        for name, rows, columns in shapes
    )


def planned_ends(config: PreTrainedConfig, plan: StepPlan, head: str) -> tuple[int, int]:
    """Bytes of the head and of the embedding, 0 of one that is the head's. head: of a plan that does not name it."""
    text, chosen = config.get_text_config(), plan.head(head)
    rows, columns = text.vocab_size, text.hidden_size
    if chosen == INT8:
        of_head = rows * columns + 2 * rows
    else:
        of_head = make_quantizer(chosen).storage_bytes(rows, columns)
    if text.tie_word_embeddings and chosen != INT8:
        return of_head, 0
    return of_head, make_quantizer(plan.ends.get(EMBEDDING, FP16)).storage_bytes(rows, columns)
