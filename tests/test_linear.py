"""QuantizedLinear against its definition y = Q(W R') (R x) + b, and the bytes it holds."""

from __future__ import annotations

import pytest
import torch

from quantizers import make_quantizer
from quantizers.linear import QuantizedLinear
from quantizers.rotation import Rotation

NAMES = ("fp16", "int-3", "nuq-2", "nuq-5", "vq-1.5", "vq-3", "tcq-2", "half-tcq-2.25")


def made(name: str, out_features: int, in_features: int, *, bias: bool) -> tuple[QuantizedLinear, torch.Tensor]:
    """(the module, the explicit matrix Q(W R') R in float64)."""
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(out_features, in_features, generator=generator)
    quantizer = make_quantizer(name, state_bits=8)
    rotation = Rotation(in_features=in_features, seed=5, group="g") if quantizer.rotated else None
    encoded = quantizer.encode(W if rotation is None else rotation.rotate_weight(W))
    b = torch.randn(out_features, generator=generator) if bias else None
    explicit = quantizer.decode(encoded).double()
    if rotation is not None:
        explicit = explicit @ rotation.matrix()
    return QuantizedLinear(quantizer, encoded, rotation, b), explicit


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("out_features", "in_features"), [(16, 48), (24, 36), (7, 64)])
def test_definition_and_bytes(name: str, out_features: int, in_features: int) -> None:
    module, explicit = made(name, out_features, in_features, bias=True)
    assert module.bias is not None
    x = torch.randn(2, 3, in_features, generator=torch.Generator().manual_seed(2))
    expected = x.double() @ explicit.T + module.bias.double()
    torch.testing.assert_close(module(x).double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(module.dense_weight().double(), explicit, rtol=0, atol=1e-5)
    assert module.storage_bytes == module.quantizer.storage_bytes(out_features, in_features)


def test_no_dense_weight_is_kept() -> None:
    module, _ = made("nuq-2", 32, 64, bias=False)
    assert list(module.parameters()) == []
    assert sum(b.numel() * b.element_size() for b in module.buffers()) == 32 * 64 // 4 + 2 * 32
    module(torch.ones(1, 64))
    assert sum(b.numel() * b.element_size() for b in module.buffers()) == 32 * 64 // 4 + 2 * 32


def test_another_dtype_does_not_round_the_codes() -> None:
    module, explicit = made("nuq-4", 16, 48, bias=True)
    before = module.dense_weight()
    module.to(torch.bfloat16)
    assert torch.equal(module.dense_weight(), before)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(3)).bfloat16()
    y = module(x)
    assert y.dtype == torch.bfloat16
    assert module.bias is not None
    expected = x.double() @ explicit.T + module.bias.double()
    torch.testing.assert_close(y.double(), expected, rtol=0.05, atol=0.3)


def test_state_dict_restores_the_codes() -> None:
    module, _ = made("tcq-2", 16, 48, bias=False)
    other, _ = made("tcq-2", 16, 48, bias=False)
    other.get_buffer("codes").zero_()
    assert not torch.equal(other.dense_weight(), module.dense_weight())
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.dense_weight(), module.dense_weight())


def test_rotation_must_fit_the_quantizer() -> None:
    quantizer = make_quantizer("nuq-2")
    encoded = quantizer.encode(torch.ones(4, 8))
    with pytest.raises(ValueError, match="nuq-2 needs"):
        QuantizedLinear(quantizer, encoded, None)
    plain = make_quantizer("fp16")
    with pytest.raises(ValueError, match="fp16 takes no"):
        QuantizedLinear(plain, plain.encode(torch.ones(4, 8)), Rotation(in_features=8, seed=0, group="g"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same_layer(name: str) -> None:
    module, explicit = made(name, 24, 48, bias=False)
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(4))
    y = module.to("cuda")(x.cuda())
    torch.testing.assert_close(y.cpu().double(), x.double() @ explicit.T, rtol=0, atol=1e-3)
