r"""A head of 8 bits: y_r = s_r sum_c w_rc x_c, w int8, s float16, a scale a row.

Written so that torch.compile makes one kernel of it that reads w once, whatever the batch: a sum for each sequence, all
over the same w (a matrix product would write the weight out in 16 bits first). Bound: bytes of w."""

from __future__ import annotations

import torch
from torch import nn


class Int8Head(nn.Module):
    """`codes` (out, in) int8, `row_scale` (out,) float16; stands where the linear of the head stood."""

    def __init__(self, codes: torch.Tensor, row_scale: torch.Tensor) -> None:
        super().__init__()
        if codes.dtype != torch.int8 or row_scale.shape != codes.shape[:1]:
            raise ValueError(f"codes are int8 with a scale a row, not {codes.dtype} with {tuple(row_scale.shape)}")
        self.out_features, self.in_features = codes.shape
        self.register_buffer("codes", codes)
        self.register_buffer("row_scale", row_scale)

    @classmethod
    def random(cls, rows: int, columns: int, generator: torch.Generator) -> Int8Head:
        """Uniform codes; a row of the weight has the size of 1."""
        device = generator.device
        codes = torch.randint(-127, 128, (rows, columns), dtype=torch.int8, device=device, generator=generator)
        size = 73.3 * columns**0.5  # 73.3: deviation of an integer from -127 to 127, (255^2 - 1) / 12 squared
        return cls(codes, torch.full((rows,), 1 / size, dtype=torch.float16, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out) in the dtype of x; sums are float32."""
        y = int8_product(x.reshape(-1, self.in_features), self.get_buffer("codes"), self.get_buffer("row_scale"))
        return y.view(*x.shape[:-1], self.out_features)


def int8_product(x: torch.Tensor, codes: torch.Tensor, row_scale: torch.Tensor) -> torch.Tensor:
    """x (batch, in) -> (batch, out)."""
    sums = [(codes.float() * row.float()).sum(-1) for row in x.unbind()]
    return (torch.stack(sums) * row_scale.float()).to(x.dtype)
