r"""A linear layer that holds its codes and nothing else: y = decode(codes) (R x) + bias.

W x = (W R')(R x), so that the weight stays in the rotated basis and only the input is rotated. The product is made from
the codes by `quantizers.kernels.operators`: by a kernel where there is one, else by decoding anew at every call. Layers
that read one input rotate it once (`quantizers.modules`)."""

from __future__ import annotations

import torch
from torch import nn

from quantizers.base import Encoded, Quantizer
from quantizers.kernels.look_up import look_up
from quantizers.kernels.operators import rotate, state_bits, table_on, unrotate
from quantizers.modules.handover import Handover
from quantizers.rotation import Rotation


class QuantizedLinear(nn.Module):
    """`encoded` of `quantizer` in place of a dense weight; `rotation` is None where the quantizer does not rotate.

    The buffers carry the keys of `encoded.tensors`. Floating ones (row scales) are kept as their bit patterns, int16,
    so that `.to(dtype)` of the whole model cannot round them."""

    def __init__(
        self, quantizer: Quantizer, encoded: Encoded, rotation: Rotation | None, bias: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        if quantizer.rotated != (rotation is not None):
            raise ValueError(f"{quantizer.name} {'needs' if quantizer.rotated else 'takes no'} rotation")
        self.quantizer = quantizer
        self.rotation = rotation
        self.out_features = encoded.out_features
        self.in_features = encoded.in_features
        self.dtypes = {key: tensor.dtype for key, tensor in encoded.tensors.items()}
        for key, tensor in encoded.tensors.items():
            self.register_buffer(key, tensor.view(torch.int16) if tensor.dtype == torch.float16 else tensor)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        # found once, here: torch.compile cannot trace how a codebook is computed and hashed
        self._keys, self._state_bits, self._table = ",".join(self.dtypes), state_bits(quantizer), quantizer.codebook()
        self._rotated: Handover | None = None
        self._taker = 0

    def share_rotation(self, rotated: Handover | None, taker: int) -> None:
        """Take R x from `rotated`, whose modules all have this rotation, as number `taker`; None: rotate alone."""
        self._rotated, self._taker = rotated, taker

    @property
    def encoded(self) -> Encoded:
        """The codes, on the device of the module."""
        tensors = {key: self.get_buffer(key).view(dtype) for key, dtype in self.dtypes.items()}
        return Encoded(out_features=self.out_features, in_features=self.in_features, tensors=tensors)

    @property
    def storage_bytes(self) -> int:
        """Bytes of the buffers: what the allocator charged for this layer."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out) in the dtype of x; the rotation works in float32."""
        rotated = self._turned(x) if self._rotated is None else self._rotated.take(self._taker, x, self._for_all)
        return self.multiply(rotated).view(*x.shape[:-1], self.out_features)

    def multiply(self, rotated: torch.Tensor) -> torch.Tensor:
        """R x (rows, in) -> (rows, out), with the bias."""
        tensors = list(self.encoded.tensors.values())
        given = self._keys, self.quantizer.name, self._state_bits, self.out_features, self._table_on(rotated.device)
        y: torch.Tensor = torch.ops.bitpalette.product(rotated, tensors, *given)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def rows(self, indices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows of W, un-rotated: indices (n,) int64 -> (n, in). IndexError (on a CPU) where there is no such row."""
        table = self._table_on(indices.device)
        found = look_up(indices, self.encoded, self.quantizer.name, self._state_bits, table, dtype)
        return found if self.rotation is None else unrotate(found, self.rotation)

    def _table_on(self, device: torch.device) -> torch.Tensor | None:
        if self._table is not None and self._table.device != device:
            self._table = table_on(self._table, device)  # one for all layers, which is why it is no buffer
        return self._table

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> R x (rows, in), x itself where the quantizer does not rotate."""
        rows = x.reshape(-1, self.in_features)
        return rows if self.rotation is None else rotate(rows, self.rotation)

    def _for_all(self, x: torch.Tensor) -> list[torch.Tensor]:
        assert self._rotated is not None
        return [self._turned(x)] * len(self._rotated.takers)

    def dense_weight(self) -> torch.Tensor:
        """(out, in) float32, un-rotated."""
        weight = self.quantizer.decode(self.encoded)
        return weight if self.rotation is None else self.rotation.unrotate_weight(weight)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.quantizer.name}, {self.storage_bytes} bytes"
