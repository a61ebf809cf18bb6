"""`torch.ops.bitpalette.product`: y = x W^T from packed codes, one operator for every quantizer and device; and
`torch.ops.bitpalette.rotate`, R x.

On a CUDA device of compute capability 8.0 or more, with nvcc, a kernel of cuda/ makes the product where there is one
for the quantizer, the shape and the batch; everywhere else the weight is decoded by plain torch, which is the
reference. Being an operator of `torch.library` it stands in graphs of torch.compile, and allocates nothing but its
result: CUDA graphs hold it once a first call has built the kernel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch.nn import functional

from quantizers import make_quantizer
from quantizers.base import Encoded, Quantizer
from quantizers.kernels import block_rotation, gemv, hadamard, packed_product
from quantizers.kernels.activation_bytes import Form
from quantizers.kernels.build import KernelUnavailableError, usable
from quantizers.kernels.dequantize import dequantize
from quantizers.rotation import Rotation
from quantizers.rotation.transform import scaled_signs
from quantizers.trellis.computed_trellis import ComputedTrellis

log = logging.getLogger(__name__)
KERNEL_DTYPES = (torch.float16, torch.bfloat16)


def state_bits(quantizer: Quantizer) -> int:
    """L as the operators take it: 0 where the quantizer has no states."""
    return int(quantizer.settings().get("state_bits", 0))


@lru_cache(maxsize=1024)
def table_on(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A codebook on a device, copied once: a CUDA graph cannot copy it."""
    return table.to(device)


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """x (batch, in) -> R x in the dtype of x."""
    result: torch.Tensor = torch.ops.bitpalette.rotate(x, rotation.seed, rotation.group, rotation.most_block, False)
    return result


def unrotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """x (batch, in) -> R' x in the dtype of x."""
    result: torch.Tensor = torch.ops.bitpalette.rotate(x, rotation.seed, rotation.group, rotation.most_block, True)
    return result


@torch.library.custom_op("bitpalette::rotate", mutates_args=())
def _rotate(x: torch.Tensor, seed: int, group: str, most_block: int, back: bool) -> torch.Tensor:
    """x (batch, in). seed, group, most_block: as of `Rotation`; back: R' x."""
    rotation = Rotation(in_features=x.shape[1], seed=seed, group=group, most_block=most_block)
    if not back:
        return _turned(x, rotation)
    if not (x.is_cuda and rotation.symmetric):
        return rotation.unrotate_weight(x).to(x.dtype)
    flips = scaled_signs(rotation.in_features, 1, seed, group, x.dtype, x.device)
    return _turned(x * flips, rotation) * flips


def _turned(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """R x, by a kernel where there is one."""
    source = block_rotation.plain(x.contiguous())
    if has_fused_rotation(source, rotation):
        y = block_rotation.rotate(source, rotation, halves=True, form=Form.NONE).y
        assert y is not None
        return y
    if _on_gpu(x) and hadamard.defines(rotation) and hadamard.fits(rotation, x.device):
        y = torch.empty_like(source.first)
        hadamard.rotate(source.first, y, rotation)
        return y
    return rotation.rotate_input(x).to(x.dtype)


@_rotate.register_fake
def _(x: torch.Tensor, seed: int, group: str, most_block: int, back: bool) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep_rotation(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, ctx.seed, ctx.group, ctx.most_block, ctx.back = inputs


def _rotate_back(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
    turned = torch.ops.bitpalette.rotate(gradient, ctx.seed, ctx.group, ctx.most_block, not ctx.back)
    return turned, None, None, None, None


_rotate.register_autograd(_rotate_back, setup_context=_keep_rotation)


@torch.library.custom_op("bitpalette::product", mutates_args=())
def _product(
    x: torch.Tensor, tensors: list[torch.Tensor], keys: str, quantizer: str, state_bits: int, out_features: int,
    codebook: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """x (batch, in). tensors: those of the layer in the order of `keys`, joined by commas; state_bits: 0 where the
    quantizer has none; codebook: the table that it reads, None where it computes its values."""
    if has_kernel(quantizer, state_bits, out_features, x):
        named = dict(zip(keys.split(","), tensors, strict=True))
        codes, scale, y = named["codes"], named["row_scale"], x.new_empty(len(x), out_features)
        packed_product.multiply(_decoder(quantizer, state_bits), codebook, codes, scale, x.contiguous(), y)
        return y
    if has_dequantizer(quantizer, state_bits, out_features, x):
        named, decoder = dict(zip(keys.split(","), tensors, strict=True)), _decoder(quantizer, state_bits)
        weight = x.new_empty(out_features, x.shape[1])
        dequantize(decoder, codebook, named["codes"], named["row_scale"], weight)
        return functional.linear(x, weight)
    weight = _weight(tensors, keys, quantizer, state_bits, out_features, codebook, in_features=x.shape[1])
    return functional.linear(x, weight.to(x.dtype))


@_product.register_fake
def _(
    x: torch.Tensor, tensors: list[torch.Tensor], keys: str, quantizer: str, state_bits: int, out_features: int,
    codebook: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    return x.new_empty(len(x), out_features)


@torch.library.custom_op("bitpalette::product_back", mutates_args=())
def _product_back(
    gradient: torch.Tensor, tensors: list[torch.Tensor], keys: str, quantizer: str, state_bits: int, in_features: int,
    codebook: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """gradient (batch, out) -> (batch, in): of the input; codes have no gradient."""
    out_features = gradient.shape[1]
    weight = _weight(tensors, keys, quantizer, state_bits, out_features, codebook, in_features=in_features)
    return gradient @ weight.to(gradient.dtype)


@_product_back.register_fake
def _(
    gradient: torch.Tensor, tensors: list[torch.Tensor], keys: str, quantizer: str, state_bits: int, in_features: int,
    codebook: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    return gradient.new_empty(len(gradient), in_features)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, tensors, ctx.keys, ctx.quantizer, ctx.state_bits, _, ctx.codebook = inputs
    ctx.in_features = x.shape[1]
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    given = ctx.keys, ctx.quantizer, ctx.state_bits, ctx.in_features, ctx.codebook
    back = torch.ops.bitpalette.product_back(gradient, list(ctx.saved_tensors), *given)
    return back, [None] * len(ctx.saved_tensors), None, None, None, None, None


_product.register_autograd(_backward, setup_context=_keep)


def _weight(
    tensors: Sequence[torch.Tensor], keys: str, quantizer: str, state_bits: int, out_features: int,
    codebook: torch.Tensor | None, *, in_features: int,
) -> torch.Tensor:  # fmt: skip
    """(out, in) float32, by plain torch."""
    decoder = _decoder(quantizer, state_bits)
    if codebook is not None:
        decoder = decoder.with_codebook(codebook)
    named = dict(zip(keys.split(","), tensors, strict=True))
    return decoder.decode(Encoded(out_features=out_features, in_features=in_features, tensors=named))


@cache
def _decoder(name: str, state_bits: int) -> Quantizer:
    return make_quantizer(name, state_bits) if state_bits else make_quantizer(name)


def has_kernel(quantizer: str, state_bits: int, out_features: int, x: torch.Tensor) -> bool:
    """Whether a kernel makes this product: device, dtype, batch, shape, and codes as the kernels read them."""
    batch, in_features = x.shape
    taken = gemv.takes(out_features, in_features, 1) and 1 <= batch <= packed_product.most_batch(
        out_features, in_features
    )
    return taken and _on_gpu(x) and packed_product.has_kernel(_decoder(quantizer, state_bits))


def has_fused_rotation(source: block_rotation.Source, rotation: Rotation) -> bool:
    """Whether one launch makes and rotates this input."""
    x = source.first
    return block_rotation.takes(rotation) and _on_gpu(x)


def has_dequantizer(quantizer: str, state_bits: int, out_features: int, x: torch.Tensor) -> bool:
    """Whether a kernel makes the 16-bit weight, for batches beyond those of `has_kernel`."""
    if out_features % 16 or x.shape[1] % 16 or not _on_gpu(x):
        return False
    decoder = _decoder(quantizer, state_bits)
    return packed_product.has_kernel(decoder) and (isinstance(decoder, ComputedTrellis) or x.shape[1] % 64 == 0)


def _on_gpu(x: torch.Tensor) -> bool:
    return x.is_cuda and x.dtype in KERNEL_DTYPES and _has_kernels(x.device)


@cache
def _has_kernels(device: torch.device) -> bool:
    try:
        usable(device)
    except KernelUnavailableError as error:
        log.warning("%s; weights are decoded by plain torch, many times slower", error)
        return False
    return True
