"""`torch.ops.bitpalette.look_up`: rows of a matrix from its packed codes, for an embedding, on any device.

The strips of 16 rows that hold them (`quantizers.modules.strips`) are decoded: on a CUDA device by the dequantize
kernels where there is one for the quantizer, by plain torch, which is the reference, elsewhere. With the kernel a CUDA
graph holds it: no value of an index is read by the host."""

from __future__ import annotations

import torch

from quantizers import make_quantizer
from quantizers.base import Encoded
from quantizers.kernels.dequantize import dequantize
from quantizers.kernels.operators import has_dequantizer
from quantizers.modules.strips import row_strips
from quantizers.trellis.tiles import SIDE

TOGETHER = 128  # rows whose strips stand decoded at once: 33 MB of float32 at 4,096 columns


def look_up(
    rows: torch.Tensor,
    encoded: Encoded,
    quantizer: str,
    state_bits: int,
    codebook: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """rows (n,) int64 -> (n, in) of `dtype`, as the codes have them, that is rotated. quantizer: whose codes these are,
    by name; state_bits: as `operators.state_bits` gives it; codebook: what it reads, on the device, None where it
    computes its values. IndexError (on a CPU) where a row is not in the matrix."""
    tensors, keys = list(encoded.tensors.values()), ",".join(encoded.tensors)
    given = quantizer, state_bits, encoded.out_features, encoded.in_features, codebook, dtype
    result: torch.Tensor = torch.ops.bitpalette.look_up(rows, tensors, keys, *given)
    return result


@torch.library.custom_op("bitpalette::look_up", mutates_args=())
def _look_up(
    rows: torch.Tensor, tensors: list[torch.Tensor], keys: str, quantizer: str, state_bits: int, out_features: int,
    in_features: int, codebook: torch.Tensor | None, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """tensors: those of the layer in the order of `keys`, joined by commas; the others as of `look_up`."""
    if not rows.is_cuda and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < out_features:
        raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of a matrix of {out_features} rows")
    decoder = make_quantizer(quantizer, state_bits) if state_bits else make_quantizer(quantizer)
    whole = Encoded(
        out_features=out_features, in_features=in_features, tensors=dict(zip(keys.split(","), tensors, strict=True))
    )
    found = rows.new_empty((len(rows), in_features), dtype=dtype)
    for part, into in zip(torch.split(rows, TOGETHER), torch.split(found, TOGETHER), strict=True):
        cut = row_strips(decoder, whole, part)
        weight = rows.new_empty((cut.out_features, in_features), dtype=dtype)
        if has_dequantizer(quantizer, state_bits, cut.out_features, weight):
            dequantize(decoder, codebook, cut.tensors["codes"], cut.tensors["row_scale"], weight)
        else:
            plain = decoder if codebook is None else decoder.with_codebook(codebook)
            weight.copy_(plain.decode(cut))
        at = torch.arange(len(part), device=rows.device) * SIDE + part % SIDE
        torch.index_select(weight, 0, at, out=into)
    return found


@_look_up.register_fake
def _(
    rows: torch.Tensor, tensors: list[torch.Tensor], keys: str, quantizer: str, state_bits: int, out_features: int,
    in_features: int, codebook: torch.Tensor | None, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    return rows.new_empty((len(rows), in_features), dtype=dtype)
