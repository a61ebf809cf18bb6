"""The lean step equals transformers' own, token by token, and what it holds has the bytes that were planned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from step_models import CONFIGS, tiny
from torch import nn
from transformers import Gemma2Config, MistralConfig

from quantizers import make_quantizer
from quantizers.kernels import lean_glue, operators
from quantizers.kernels.int8_head import Int8Head
from quantizers.kernels.lean_step import LeanStep, check_family
from quantizers.kernels.model_step import ModelStep
from quantizers.kernels.random_model import block_layers, check_head, planned_bytes, weight_bytes
from quantizers.kernels.random_plan import read_plan

CAPACITY, BATCH = 8, 3
PLANS = ("trellis-2:fused", "nuq-4:unfused", "fp16:fused", "fp16:unfused")


def lean(model: nn.Module, **settings: Any) -> LeanStep:
    given = {"batch": BATCH, "capacity": CAPACITY, "compiled": False, "attention": "masked"}
    return LeanStep(model, **{**given, **settings})


def decoded(step: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (places, batch, vocabulary)."""
    found = []
    for place, row in enumerate(tokens):
        step.tokens.copy_(row)
        step.place.fill_(place)
        found.append(step())
        assert torch.equal(step.tokens, found[-1].argmax(-1)), "greedy"
    return torch.stack(found)


@pytest.mark.parametrize("count", [96, 1000, 509, 1018])  # 509 is prime, 1018 twice that
def test_the_first_of_equal_tokens_is_taken(count: int) -> None:
    logits = torch.randint(0, 5, (7, count), generator=torch.Generator().manual_seed(count)).half()
    tokens = torch.full((7,), -1, dtype=torch.int64)
    lean_glue.greedy(logits, tokens)
    first = [row.index(max(row)) for row in logits.tolist()]
    assert tokens.tolist() == first


TOKENS = torch.randint(0, 96, (CAPACITY, BATCH), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, plan: str) -> None:
    model = tiny(name, plan)
    theirs = ModelStep(model, batch=BATCH, capacity=CAPACITY)
    expected = decoded(theirs, TOKENS)
    step = lean(model)
    ours = decoded(step, TOKENS)
    # float32: another order of sums, through two blocks
    assert (ours - expected).abs().max() < 1e-4 * expected.std()
    assert step.cache_bytes == theirs.cache_bytes
    theirs.start_at(CAPACITY - 1)
    theirs.tokens.copy_(TOKENS[-1])
    full = lean(model, attention="full")
    for into, held in zip(full._blocks, step._blocks, strict=True):
        into.keys.copy_(held.keys)
        into.values.copy_(held.values)
    full.tokens.copy_(TOKENS[-1])
    assert (full() - expected[-1]).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize("head", ["int8", "nuq-8"])
def test_a_quantized_head_stands_in_both_steps(head: str) -> None:
    model = tiny("llama", "trellis-2:fused", head=head)
    expected = decoded(ModelStep(model, batch=BATCH, capacity=CAPACITY), TOKENS)
    assert (decoded(lean(model), TOKENS) - expected).abs().max() < 1e-4 * expected.std()


def test_an_int8_head_is_its_dense_product() -> None:
    head = Int8Head.random(40, 64, torch.Generator().manual_seed(0))
    weight = head.get_buffer("codes").double() * head.get_buffer("row_scale").double()[:, None]
    x = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(head(x).double(), x.double() @ weight.T, atol=1e-5)
    assert 0.8 < weight.norm(dim=1).mean() < 1.2, "rows have the size of 1"
    with pytest.raises(ValueError, match="codes are int8"):
        Int8Head(head.get_buffer("codes").float(), head.get_buffer("row_scale"))


def test_glue_can_be_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, made functional and run; the code for a device is left out, which takes a minute of C++ here."""
    compiled = torch.compile

    def traced(function: Any, **settings: Any) -> Any:
        return compiled(function, backend="aot_eager", **settings)

    monkeypatch.setattr(torch, "compile", traced)
    model = tiny("qwen3", "trellis-2:fused", head="int8")
    step = lean(model, compiled=True)
    ours = decoded(step, TOKENS)
    monkeypatch.undo()
    expected = decoded(lean(model), TOKENS)
    assert (ours - expected).abs().max() < 1e-4 * expected.std()


def test_an_input_is_rotated_once_and_absent_products_leave_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    rotate = operators.rotate

    def counted(x: torch.Tensor, rotation: Any) -> torch.Tensor:
        calls.append(rotation.group)
        return rotate(x, rotation)

    monkeypatch.setattr("quantizers.kernels.lean_products.rotate", counted)
    groups = [f"model.layers.{b}.{g}" for b in (0, 1)
              for g in ("self_attn.qkv", "self_attn.o", "mlp.gate_up", "mlp.down")]  # fmt: skip
    for plan in ("trellis-2:fused", "trellis-2:unfused"):
        model = tiny("llama", plan)
        for absent in (False, True):
            calls.clear()
            assert lean(model, absent=absent)().isfinite().all()
            assert calls == groups


@pytest.mark.parametrize("plan", PLANS)
def test_bytes_are_those_planned(plan: str) -> None:
    config = CONFIGS["llama"]()
    layers = block_layers(config)
    chosen = read_plan(plan, layers)
    by_hand = sum(
        make_quantizer(chosen.choices[row.layer].quantizer).storage_bytes(row.out_features, row.in_features)
        for row in layers.itertuples()
    )
    held = weight_bytes(tiny("llama", plan, dtype=torch.float16))
    assert held.layers == planned_bytes(chosen, layers) == by_hand
    assert (held.head, held.embedding, held.others) == (96 * 64 * 2, 96 * 64 * 2, 5 * 64 * 2)
    assert held.read == held.total - 96 * 64 * 2
    assert held.codebooks == (16 * 2 if plan.startswith("nuq-4") else 0)


def test_a_tied_weight_is_counted_once() -> None:
    held = weight_bytes(tiny("qwen2", "trellis-2:fused", dtype=torch.float16))
    assert (held.head, held.embedding) == (96 * 64 * 2, 0)
    assert held.read == held.total
    both = weight_bytes(tiny("qwen2", "trellis-2:fused", head="int8", dtype=torch.float16))
    assert (both.head, both.embedding) == (96 * 64 + 96 * 2, 96 * 64 * 2)


def test_what_is_not_lean_is_said() -> None:
    with pytest.raises(ValueError, match="no lean step for gemma2"):
        check_family(Gemma2Config(), 8)
    with pytest.raises(ValueError, match="a window of 4 tokens"):
        check_family(MistralConfig(sliding_window=4), 8)
    with pytest.raises(ValueError, match="no kernel makes the products of a head of int-4"):
        check_head("int-4")
    with pytest.raises(ValueError, match="attention 'flat'"):
        lean(tiny("llama", "trellis-2:fused"), attention="flat")
    with pytest.raises(ValueError, match="9 calls do not fit a context of 8"):
        ModelStep(tiny("llama", "fp16"), batch=1, capacity=8).rewind(9)
