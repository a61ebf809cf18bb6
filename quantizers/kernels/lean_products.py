r"""The products of a block as a decoding step asks for them: [y_1; y_2; ..] = [W_1; W_2; ..] x, layers that read one x.

An input is made (norm, gate: `block_rotation.Source`) and rotated once for all products of its group, in one launch
where there is a kernel; results are views of what a product wrote. The modules of a model say which layers are one
product: fused ones, and 16-bit linears whose weights are neighbours in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from quantizers.kernels import block_rotation, gemv
from quantizers.kernels.activation_bytes import Form
from quantizers.kernels.block_rotation import Source
from quantizers.kernels.operators import has_fused_rotation, rotate
from quantizers.kernels.packed_product import Input, form_of, multiply
from quantizers.kernels.place import Place
from quantizers.linear import QuantizedLinear
from quantizers.modules.fused import FusedMember
from quantizers.rotation import Rotation

Kind = tuple[Rotation | None, Form]  # of a product's input: how it is rotated, and the bytes that it is
Plainly = Callable[[Source], tuple[torch.Tensor, torch.Tensor]]


class Product(Protocol):
    """One matrix product. `names`: the layers whose rows it has, `rows` of each; `rotation`: of the input that it
    reads, None: the input itself; `form`: of the bytes that it reads where they are made for it."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def rows(self) -> tuple[int, ...]: ...

    @property
    def rotation(self) -> Rotation | None: ...

    @property
    def form(self) -> Form: ...

    def __call__(self, x: Input, place: Place) -> torch.Tensor:
        """x (batch, in), rotated -> (batch, rows of all)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """From the codes of a layer."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    layer: QuantizedLinear

    @property
    def rotation(self) -> Rotation | None:
        return self.layer.rotation

    @property
    def form(self) -> Form:
        layer = self.layer
        taken = gemv.takes(layer.out_features, layer.in_features, 1)
        return form_of(layer.quantizer) if taken else Form.NONE

    def __call__(self, x: Input, place: Place) -> torch.Tensor:
        if isinstance(x, torch.Tensor):
            return self.layer.multiply(x)
        tensors, y = self.layer.encoded.tensors, x.rows.new_empty(len(x.rows), self.layer.out_features, dtype=x.dtype)
        multiply(self.layer.quantizer, None, tensors["codes"], tensors["row_scale"], x, y, place=place)
        return y if self.layer.bias is None else y + self.layer.bias.to(y.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense:
    """Of 16 bits, by cuBLAS."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    weight: torch.Tensor
    bias: torch.Tensor | None
    form = Form.NONE

    @property
    def rotation(self) -> Rotation | None:
        return None

    def __call__(self, x: Input, place: Place) -> torch.Tensor:
        assert isinstance(x, torch.Tensor)
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Absent:
    """A product that takes no time: its output is there already."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    rotation: Rotation | None
    form: Form
    output: torch.Tensor

    @classmethod
    def like(cls, product: Product, batch: int, dtype: torch.dtype, device: torch.device) -> Absent:
        """In the place of a product."""
        output = torch.randn(batch, sum(product.rows), device=device).to(dtype)
        return cls(names=product.names, rows=product.rows, rotation=product.rotation, form=product.form, output=output)

    def __call__(self, x: Input, place: Place) -> torch.Tensor:
        return self.output


class Group:
    """The products that read one input. plain: f of a source, and x + delta of one that adds, its first otherwise;
    last: where the last of them stands."""

    def __init__(self, products: Sequence[Product], plain: Plainly, last: Place = Place.BETWEEN_ROTATIONS) -> None:
        self.products, self._plain, self._last = tuple(products), plain, last

    def __call__(self, source: Source) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """(batch, rows) of each layer, by the last part of its name; and x + delta of a source that adds."""
        few = len(source.first) <= gemv.MOST_BATCH
        kinds = [(product.rotation, product.form if few else Form.NONE) for product in self.products]
        inputs, total = self._inputs(source, kinds)
        results: dict[str, torch.Tensor] = {}
        for product, kind in zip(self.products, kinds, strict=True):
            y = product(inputs[kind], self._last if product is self.products[-1] else Place.IN_A_ROW)
            results |= zip(product.names, torch.split(y, list(product.rows), dim=-1), strict=True)
        return results, total

    def _inputs(self, source: Source, kinds: Sequence[Kind]) -> tuple[dict[Kind, Input], torch.Tensor]:
        """What products of these kinds read."""
        first = kinds[0][0]
        if first is not None and all(rotation == first for rotation, _ in kinds) and has_fused_rotation(source, first):
            asked = {form for _, form in kinds}
            inputs: dict[Kind, Input] = {}
            total = source.first
            for form in sorted(asked - {Form.NONE}) or [Form.NONE]:  # a launch for each form of bytes
                halves = Form.NONE in asked and (first, Form.NONE) not in inputs
                found = block_rotation.rotate(source, first, halves=halves, form=form)
                inputs |= {(first, form): x for form, x in ((Form.NONE, found.y), (form, found.bytes)) if x is not None}
                total = total if found.sum is None else found.sum
            return inputs, total
        x, total = self._plain(source)
        turned: dict[Rotation | None, torch.Tensor] = {None: x}
        for rotation, _ in kinds:
            if rotation is not None and rotation not in turned:
                turned[rotation] = rotate(x, rotation)
        return {kind: turned[kind[0]] for kind in kinds}, total


def products_of(holder: nn.Module, names: Sequence[str]) -> list[Product]:
    """Of the layers that are children of `holder` under these names, in their order."""
    found: list[Product] = []
    for name in names:
        module = holder.get_submodule(name)
        if type(module) not in _MAKERS:
            raise ValueError(f"{name} is a {type(module).__name__}, which a lean step cannot multiply with")
        product = _MAKERS[type(module)](name, module)
        if product is not None:
            found.append(product)
    return joined(found)


def joined(products: Sequence[Product]) -> list[Product]:
    """The same, 16-bit ones that are neighbours in memory as one."""
    found: list[Product] = []
    for product in products:
        last = found[-1] if found else None
        if isinstance(last, Dense) and isinstance(product, Dense) and follows(last.weight, product.weight):
            found[-1] = Dense(
                names=last.names + product.names,
                rows=last.rows + product.rows,
                weight=both(last.weight, product.weight),
                bias=None if last.bias is None or product.bias is None else torch.cat([last.bias, product.bias]),
            )
        else:
            found.append(product)
    return found


def follows(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether the rows of two matrices are one matrix."""
    same = first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    return same and first.storage_offset() + first.numel() == second.storage_offset()


def both(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The rows of two matrices, of which the second follows the first, without a copy."""
    columns = first.shape[1]
    return first.detach().as_strided((len(first) + len(second), columns), (columns, 1))


def _fused(name: str, module: FusedMember) -> Product | None:
    """The first member stands for all."""
    if module.index:
        return None
    names = tuple(taker.rpartition(".")[2] for taker in module.handover.takers)
    return Packed(names=names, rows=tuple(module.rows), layer=module.product)


def _packed(name: str, module: QuantizedLinear) -> Product:
    return Packed(names=(name,), rows=(module.out_features,), layer=module)


def _dense(name: str, module: nn.Linear) -> Product:
    bias = None if module.bias is None else module.bias.detach()
    return Dense(names=(name,), rows=(module.out_features,), weight=module.weight.detach(), bias=bias)


_MAKERS: Mapping[type[nn.Module], Callable[[str, Any], Product | None]] = {
    FusedMember: _fused,
    QuantizedLinear: _packed,
    nn.Linear: _dense,
}
