r"""One product for several linear layers of a fusion group: [y_1; y_2; ..] = [W_1; W_2; ..] x, in the members' places.

The member that is called first makes the product, the others take their rows of it (`Handover`); rows are views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from quantizers.linear import QuantizedLinear
from quantizers.modules.handover import Handover


class FusedMember(nn.Module):
    """Stands where a linear stood: rows of a product. The first member of the model holds it, as its child `product`,
    so that the codes are in the tree of modules once; the others refer to it."""

    product: QuantizedLinear

    def __init__(self, product: QuantizedLinear, rows: Sequence[int], handover: Handover, index: int) -> None:
        """rows: of every member; ValueError where they are not those of the product."""
        super().__init__()
        if len(rows) != len(handover.takers) or sum(rows) != product.out_features:
            raise ValueError(f"members of {list(rows)} rows are no parts of a product of {product.out_features}")
        if index == 0:
            self.product = product
        self._shared = (product,)  # in a tuple: a plain attribute would make it a child of every member
        self.rows = list(rows)
        self.handover = handover
        self.index = index
        self.in_features, self.out_features = product.in_features, rows[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out), a view of the rows of the product. RuntimeError as `Handover.take`."""
        return self.handover.take(self.index, x, self._outputs)

    def _outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(self._shared[0](x), self.rows, dim=-1)

    def dense_weight(self) -> torch.Tensor:
        """(out, in) float32, un-rotated: of this member, though all are decoded."""
        return torch.split(self._shared[0].dense_weight(), self.rows)[self.index]

    def extra_repr(self) -> str:
        first = sum(self.rows[: self.index])
        members = "+".join(name.rpartition(".")[2] for name in self.handover.takers)
        return f"{self.in_features} -> {self.out_features}, rows {first}:{first + self.out_features} of {members}"
