"""Surgery: one rotation a fusion group and one product a unit, whoever is called first; errors where none can be."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import permutations
from typing import Any

import pytest
import torch
from checkpoint_models import STATE_BITS, logits, tiny_experts, uniform
from fused_models import packed, plan, tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from alloc.choice import Choice
from quantizers import make_quantizer
from quantizers.checkpoint import LayerChoice, quantize_in_place
from quantizers.kernels.operators import has_kernel
from quantizers.linear import QuantizedLinear
from quantizers.models import linear_slots
from quantizers.modules.fused import FusedMember
from quantizers.modules.fusing import fuse, fused_units
from quantizers.rotation import Rotation

BLOCK = "model.layers.0"
Q, K, V, OUT = (f"{BLOCK}.self_attn.{leaf}_proj" for leaf in "qkvo")
GATE, UP = f"{BLOCK}.mlp.gate_proj", f"{BLOCK}.mlp.up_proj"


class Calls(TorchDispatchMode):
    """Counts the operators of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "bitpalette":
            self.seen[func.name().rpartition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("units", "products"),
    [((), 7), (("q_proj+k_proj",), 6), (("k_proj+v_proj", "gate_proj+up_proj"), 5), (("q_proj+k_proj+v_proj",), 5)],
)
def test_a_group_rotates_its_input_once_and_a_unit_is_one_product(units: tuple[str, ...], products: int) -> None:
    model = packed("qwen2", *units)
    for passes in range(1, 3):
        with Calls() as calls:
            logits(model)
        assert calls.seen == {"rotate": 2 * 4, "product": 2 * products}, f"pass {passes}"


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("units", [(), ("q_proj+v_proj",), ("q_proj+k_proj+v_proj",)])
def test_any_member_may_come_first(units: tuple[str, ...], order: tuple[int, ...]) -> None:
    attention = packed("qwen2", *units).model.model.layers[0].self_attn
    members = [attention.q_proj, attention.k_proj, attention.v_proj]
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(4))
    reference = tiny("qwen2")
    quantize_in_place(reference, plan(reference), rotation_seed=3, state_bits=STATE_BITS)
    for _ in range(2):  # the same tensor with new values
        with Calls() as calls:
            outputs = {at: members[at](x) for at in order}
        assert calls.seen["rotate"] == 1
        for at, leaf in enumerate("qkv"):
            expected = reference.model.get_submodule(f"{BLOCK}.self_attn.{leaf}_proj")(x)
            torch.testing.assert_close(outputs[at], expected, rtol=1e-4, atol=1e-4)
        x.mul_(-2)


def test_outputs_are_views_of_one_product() -> None:
    attention = packed("llama", "q_proj+k_proj+v_proj").model.model.layers[0].self_attn
    x = torch.ones(1, 3, 64)
    q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    assert (q.shape[-1], k.shape[-1], v.shape[-1]) == (64, 32, 32)
    assert len({part.untyped_storage().data_ptr() for part in (q, k, v)}) == 1
    assert (k.storage_offset(), v.storage_offset()) == (64, 96)


def test_an_exception_in_between_leaves_no_stale_result() -> None:
    model = packed("llama", "q_proj+k_proj", "gate_proj+up_proj")
    expected = logits(model)
    value = model.model.get_submodule(V)

    def interrupt(module: nn.Module, given: Any) -> None:
        raise KeyboardInterrupt

    for name in (K, V, UP):
        hook = model.model.get_submodule(name).register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.model(torch.ones(1, 4, dtype=torch.long))
        hook.remove()
        assert torch.equal(logits(model), expected)
    x = torch.ones(1, 2, 64)
    value(x)
    with pytest.raises(RuntimeError, match=r"self_attn.v_proj was called twice on one input, on which .*q_proj"):
        value(x)


def test_a_copy_and_another_dtype_are_models_of_their_own() -> None:
    model = packed("qwen3", "q_proj+k_proj+v_proj", "gate_proj+up_proj")
    expected = logits(model)
    twin = copy.deepcopy(model.model)
    for name, buffer in model.model.named_buffers():
        if name.endswith("codes"):
            buffer.zero_()
    assert not torch.equal(logits(model), expected)
    model.model.load_state_dict(twin.state_dict())
    assert torch.equal(logits(model), expected)
    before = [member.dense_weight() for member in twin.modules() if isinstance(member, FusedMember)]
    twin.to(torch.bfloat16)
    after = [member.dense_weight() for member in twin.modules() if isinstance(member, FusedMember)]
    assert len(before) == 10
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert twin(torch.ones(1, 4, dtype=torch.long)).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("units", [(), ("q_proj+v_proj", "gate_proj+up_proj")])
def test_it_compiles_to_one_graph_with_one_rotation_a_group(units: tuple[str, ...]) -> None:
    model = packed("llama", *units)
    tokens = torch.arange(6)[None]
    seen: list[int] = []

    def counting(graph: torch.fx.GraphModule, example: Any) -> Any:
        seen.append(sum("bitpalette.rotate" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model.model, fullgraph=True, backend=counting)
    with torch.no_grad():
        for given in (tokens, tokens + 3):
            assert torch.equal(compiled(given, use_cache=False).logits, model.model(given, use_cache=False).logits)
    assert seen == [8]


def test_units_of_an_allocation() -> None:
    def choice(*partners: str) -> Choice:
        return Choice(quantizer="nuq-3", kernel="tensor-core", fused_with=partners)

    assert fused_units({"a": choice("c"), "b": choice(), "c": choice("a")}) == [("a", "c")]
    three = {"a": choice("c", "b"), "b": choice("a", "c"), "c": choice("b", "a"), "d": choice("e"), "e": choice("d")}
    assert fused_units(three) == [("a", "b", "c"), ("d", "e")]
    for odd in ({"a": choice("b"), "b": choice()}, {"a": choice("b")}):
        with pytest.raises(ValueError, match="a is fused with b; b does not say so"):
            fused_units(odd)


def test_experts_stay_dense_whatever_the_plan_fuses() -> None:
    model = tiny_experts()
    choices = uniform(model, "nuq-3")
    experts = f"{BLOCK}.mlp.experts.1"
    for pair in ((Q, K), (f"{experts}.gate_proj", f"{experts}.up_proj")):
        for name, partner in (pair, pair[::-1]):
            choices[name] = LayerChoice(quantizer="nuq-3", fused_with=(partner,))
    quantize_in_place(model, choices, rotation_seed=3, state_bits=STATE_BITS, packed=True)
    assert [n for n, m in model.model.named_modules() if isinstance(m, FusedMember)] == [Q, K]
    half = {Q: LayerChoice(quantizer="nuq-3", fused_with=(f"{experts}.up_proj",))}
    half[f"{experts}.up_proj"] = LayerChoice(quantizer="nuq-3", fused_with=(Q,))
    fresh = tiny_experts()
    with pytest.raises(ValueError, match=r"1.up_proj is no packed linear .* cannot be fused with .*q_proj"):
        quantize_in_place(fresh, uniform(fresh, "nuq-3") | half, rotation_seed=3, state_bits=STATE_BITS, packed=True)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([(Q,)], "at least two layers"),
        ([(Q, "model.norm")], "'model.norm' is no packed linear"),
        ([(Q, K), (K, V)], "k_proj' is fused twice"),
        ([(Q, Q)], "q_proj' is fused twice"),
        ([(Q, OUT)], r"o_proj cannot be fused with .*q_proj: its fusion group is .*self_attn.o, not .*self_attn.qkv"),
        ([(Q, f"{BLOCK[:-1]}1.self_attn.k_proj")], "its fusion group is model.layers.1.self_attn.qkv"),
    ],
)
def test_what_is_no_unit_changes_nothing(units: list[tuple[str, ...]], message: str) -> None:
    model = packed("llama")
    expected = logits(model)
    with pytest.raises(ValueError, match=message):
        fuse(model.model, [(GATE, UP), *units])
    assert not any(isinstance(module, FusedMember) for module in model.model.modules())
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(
    ("leaf", "other", "message"),
    [
        ("nuq-4", "nuq-3", r"up_proj cannot be fused with .*gate_proj: its quantizer is .*nuq-3.*, not .*nuq-4"),
        ("nvfp4", "nvfp4", "gate_proj cannot be fused: nvfp4 stores 4 bytes"),
    ],
)
def test_quantizers_that_cannot_be_one_product(leaf: str, other: str, message: str) -> None:
    model = tiny("llama")
    choices = plan(model) | {GATE: LayerChoice(quantizer=leaf), UP: LayerChoice(quantizer=other)}
    quantize_in_place(model, choices, rotation_seed=3, state_bits=STATE_BITS, packed=True)
    with pytest.raises(ValueError, match=message):
        fuse(model.model, [(GATE, UP)])


def test_members_of_other_rows_or_rotations() -> None:
    model = packed("llama").model
    mlp, quantizer = model.get_submodule(f"{BLOCK}.mlp"), make_quantizer("nuq-3")
    for rows, seed, message in ((40, 3, "up_proj cannot be fused: 40 rows"), (192, 4, "its rotation is Rotation")):
        for leaf, own in (("gate_proj", 3), ("up_proj", seed)):
            height = rows if leaf == "up_proj" else 192
            rotation = Rotation(in_features=64, seed=own, group=f"{BLOCK}.mlp.gate_up")
            setattr(mlp, leaf, QuantizedLinear(quantizer, quantizer.encode(torch.ones(height, 64)), rotation))
        with pytest.raises(ValueError, match=message):
            fuse(model, [(UP, GATE)])


def test_fp16_members_are_one_product_without_rotation() -> None:
    model = tiny("qwen2")
    choices = plan(model, "q_proj+k_proj")
    for name in (Q, K):
        choices[name] = LayerChoice(quantizer="fp16", fused_with=choices[name].fused_with)
    weight = model.model.get_submodule(K).weight.clone()
    quantize_in_place(model, choices, rotation_seed=3, state_bits=STATE_BITS, packed=True)
    assert torch.equal(model.model.get_submodule(K).dense_weight(), weight.half().float())
    assert linear_slots(model.model) == {}
    logits(model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("together", [False, True])
def test_a_graph_reads_new_values_at_the_same_address(together: bool) -> None:
    model = tiny("llama")
    choices = {name: LayerChoice(quantizer="trellis-2") for name in linear_slots(model.model)}
    quantize_in_place(model, choices, rotation_seed=3, state_bits=16, packed=True)
    model.model.to("cuda", torch.float16)
    fuse(model.model, [(Q, K, V)] if together else [])
    layers = [model.model.get_submodule(name) for name in (Q, K, V)]
    x = torch.randn(1, 1, 64, device="cuda", dtype=torch.float16)
    if not has_kernel("trellis-2", 16, 64, x[0]):
        pytest.skip("no nvcc: plain torch decodes, which a graph cannot hold")
    side = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(side):
        for layer in layers:
            layer(x)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            outputs = [layer(x) for layer in layers]
        for _ in range(3):
            x.normal_()
            graph.replay()
            side.synchronize()
            for layer, output in zip(layers, outputs, strict=True):
                torch.testing.assert_close(output, x @ layer.dense_weight().half().T, rtol=0.05, atol=0.05)
