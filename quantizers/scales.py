r"""How a block of weights stores its scale: a block whose largest magnitude is p becomes s c with c in a table whose
largest value is c_max, and s ~ p / c_max in a format of its own.

    Float16Scale   s = float16(p / c_max)                                        16 bits a block
    PowerOfTwo     s = 2^(floor(log2 p) - floor(log2 c_max)), E8M0                8 bits (OCP Microscaling Formats v1.0,
                   sections 5.3 and 6.3: values beyond c_max s saturate)
    TwoLevel       s = t E4M3(p / (c_max t)),  t = max p / (448 c_max) float32    8 bits, and 4 bytes a matrix

Stored tensors are integers or float16, never float32, so that `.to(dtype)` of a module cannot round them: E8M0 and E4M3
are bytes, t is the int32 of its bit pattern. `s` is computed in float32, the same on every device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from quantizers.weights import half

E4M3_LARGEST = 448.0
E8M0_BIAS = 127

Tensors = dict[str, torch.Tensor]


class ScaleFormat(ABC):
    """A way to store one scale a block. `peak`: (rows, blocks) float32, the largest magnitude of every block."""

    @property
    @abstractmethod
    def suffix(self) -> str:
        """What the name of a quantizer ends in where this is not its family's usual format: `-e4m3`."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits a block."""

    @property
    @abstractmethod
    def bytes_per_layer(self) -> int:
        """Bytes a matrix, besides those of the blocks."""

    @abstractmethod
    def encode(self, peak: torch.Tensor, largest: float) -> Tensors:
        """The stored tensors, `scales` (rows, blocks) among them. ValueError where a scale is out of range."""

    @abstractmethod
    def decode(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """s, (rows, blocks) float32, on the device of `scales`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Float16Scale(ScaleFormat):
    """A float16 a block."""

    @property
    def suffix(self) -> str:
        return ""

    @property
    def bits(self) -> int:
        return 16

    @property
    def bytes_per_layer(self) -> int:
        return 0

    def encode(self, peak: torch.Tensor, largest: float) -> Tensors:
        return {"scales": half(peak.double() / largest)}

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return tensors["scales"].to(torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerOfTwo(ScaleFormat):
    """E8M0: the exponent plus 127 in a byte; a block of zeros has the least, 2^-127."""

    @property
    def suffix(self) -> str:
        return "-e8m0"

    @property
    def bits(self) -> int:
        return 8

    @property
    def bytes_per_layer(self) -> int:
        return 0

    def encode(self, peak: torch.Tensor, largest: float) -> Tensors:
        # frexp gives m 2^e with 1/2 <= m < 1, so floor(log2 x) = e - 1; the ones cancel in the difference
        exponent = torch.frexp(peak).exponent - torch.frexp(torch.tensor(largest)).exponent
        exponent = torch.where(peak > 0, exponent, -E8M0_BIAS).clamp(-E8M0_BIAS, E8M0_BIAS)
        return {"scales": (exponent + E8M0_BIAS).to(torch.uint8)}

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        code = tensors["scales"].to(torch.int32)
        # a float32 is its exponent code shifted by 23 bits; code 0 would be zero and is the subnormal 2^-127
        return torch.where(code == 0, 1 << 22, code << 23).view(torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoLevel(ScaleFormat):
    """E4M3 a block over a float32 a matrix, `tensor_scale`, which puts the largest block at 448."""

    @property
    def suffix(self) -> str:
        return "-e4m3"

    @property
    def bits(self) -> int:
        return 8

    @property
    def bytes_per_layer(self) -> int:
        return 4

    def encode(self, peak: torch.Tensor, largest: float) -> Tensors:
        tensor_scale = (peak.max().double() / (E4M3_LARGEST * largest)).to(torch.float32)
        inverse = 1 / tensor_scale.double() if tensor_scale > 0 else 0.0
        scales = (peak.double() / largest * inverse).clamp(max=E4M3_LARGEST).to(torch.float8_e4m3fn)
        return {"scales": scales.view(torch.uint8), "tensor_scale": tensor_scale.view(torch.int32).view(1)}

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        scales = tensors["scales"].view(torch.float8_e4m3fn).to(torch.float32)
        return scales * tensors["tensor_scale"].view(torch.float32)
