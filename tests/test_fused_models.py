"""Models with fused layers give the logits of the same models without, with and without a cache, in every family."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from checkpoint_models import STATE_BITS, logits
from fused_models import ARCHITECTURES, decoded, held_bytes, packed, plan, tiny

from quantizers import make_quantizer
from quantizers.checkpoint import load_checkpoint, read_config, write_checkpoint
from quantizers.linear import QuantizedLinear
from quantizers.models import linear_slots
from quantizers.modules.fused import FusedMember

WHOLE = ("q_proj+k_proj+v_proj", "gate_proj+up_proj")
# The rows of a product are the same sums, but a matrix of another height may add them in another order
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoding_with_a_cache_is_that_of_the_unfused_model(architecture: str) -> None:
    apart, fused = packed(architecture), packed(architecture, *WHOLE)
    assert sum(isinstance(module, FusedMember) for module in fused.model.modules()) == 2 * 5
    for batch in (1, 3):
        for cache in ("dynamic", "static"):
            expected = decoded(apart, batch, cache)
            assert expected.std() > 0.01
            torch.testing.assert_close(decoded(fused, batch, cache), expected, **ROUNDING)


@pytest.mark.parametrize("unit", ["+".join(u) for n in (2, 3) for u in combinations(["q_proj", "k_proj", "v_proj"], n)])
def test_any_subset_of_a_group(unit: str) -> None:
    fused = packed("qwen2", unit)
    torch.testing.assert_close(logits(fused), logits(packed("qwen2")), **ROUNDING)
    bias = dict(fused.model.named_parameters())[f"model.layers.1.self_attn.{unit.split('+')[0]}.product.bias"]
    slots = dict(tiny("qwen2").model.named_parameters())
    own = [slots[f"model.layers.1.self_attn.{leaf}.bias"] for leaf in unit.split("+")]
    torch.testing.assert_close(bias, torch.cat(own), rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_holds_the_bytes_that_are_charged(architecture: str) -> None:
    model = tiny(architecture)
    choices = plan(model, *WHOLE)
    charged = sum(
        make_quantizer(choices[name].quantizer, STATE_BITS).storage_bytes(*slot.weight.shape)
        for name, slot in linear_slots(model.model).items()
    )
    dense = sum(slot.weight.numel() for slot in linear_slots(model.model).values())
    others = sum(p.numel() for p in model.model.parameters()) - dense
    for fused in (packed(architecture), packed(architecture, *WHOLE)):
        assert held_bytes(fused) == charged
        assert sum(p.numel() for p in fused.model.parameters()) == others
        stored = {n: t for n, t in fused.model.state_dict().items() if n.split(".")[-1] in ("codes", "row_scale")}
        assert sum(t.numel() * t.element_size() for t in stored.values()) == charged


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text"])
def test_a_checkpoint_is_loaded_as_its_plan_fuses_it(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    choices = plan(model, "q_proj+v_proj", "gate_proj+up_proj")
    write_checkpoint(tmp_path / "c", model, choices, rotation_seed=3, state_bits=STATE_BITS, cache=None)
    fused = load_checkpoint(tmp_path / "c", packed=True)
    assert torch.equal(logits(fused), logits(packed(architecture, "q_proj+v_proj", "gate_proj+up_proj")))
    block = fused.model.model.layers[1]
    members = [isinstance(block.self_attn.get_submodule(f"{leaf}_proj"), FusedMember) for leaf in "qkvo"]
    assert members == [True, False, True, False]
    assert block.self_attn.q_proj.product.out_features == 64 + 32
    assert held_bytes(fused) == read_config(tmp_path / "c")[1].storage_bytes
    apart = load_checkpoint(tmp_path / "c", packed=True, fused=False)
    assert sum(isinstance(module, QuantizedLinear) for module in apart.model.modules()) == 14
    assert not any(isinstance(module, FusedMember) for module in apart.model.modules())
    torch.testing.assert_close(logits(fused), logits(apart), **ROUNDING)
    assert not any(p.requires_grad for p in fused.model.parameters())
    assert not any(module.training for module in fused.model.modules())
