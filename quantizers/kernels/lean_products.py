r"""The products of a block as a decoding step asks for them: [y_1; y_2; ..] = [W_1; W_2; ..] x, layers that read one x.

An input is rotated once for all products of its group, and results are views of what a product wrote. The modules of a
model say which layers are one product: fused ones, and 16-bit linears whose weights are neighbours in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from quantizers.kernels.operators import rotate
from quantizers.linear import QuantizedLinear
from quantizers.modules.fused import FusedMember
from quantizers.rotation import Rotation


class Product(Protocol):
    """One matrix product. `names`: the layers whose rows it has, `rows` of each; `rotation`: of the input that it
    reads, None: the input itself."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def rows(self) -> tuple[int, ...]: ...

    @property
    def rotation(self) -> Rotation | None: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
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

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer.multiply(x)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense:
    """Of 16 bits, by cuBLAS."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def rotation(self) -> Rotation | None:
        return None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Absent:
    """A product that takes no time: its output is there already."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    rotation: Rotation | None
    output: torch.Tensor

    @classmethod
    def like(cls, product: Product, batch: int, dtype: torch.dtype, device: torch.device) -> Absent:
        """In the place of a product."""
        output = torch.randn(batch, sum(product.rows), device=device).to(dtype)
        return cls(names=product.names, rows=product.rows, rotation=product.rotation, output=output)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.output


class Group:
    """The products that read one input."""

    def __init__(self, products: Sequence[Product]) -> None:
        self.products = tuple(products)

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """x (batch, in) -> (batch, rows) of each layer, by the last part of its name."""
        inputs: dict[Rotation | None, torch.Tensor] = {None: x}
        results: dict[str, torch.Tensor] = {}
        for product in self.products:
            if product.rotation is not None and product.rotation not in inputs:
                inputs[product.rotation] = rotate(x, product.rotation)
            y = product(inputs[product.rotation])
            results |= zip(product.names, torch.split(y, list(product.rows), dim=-1), strict=True)
        return results


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
