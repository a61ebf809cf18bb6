"""Hessian trace against the Hessian itself, layer cosine against the hidden states of the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sensitivity_models import one_thread, tiny_llama, tiny_mixtral, tokens

from alloc.sensitivity import HessianTrace, LayerCosine
from alloc.sensitivity.layer_cosine import turns
from quantizers.models import linear_slots


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with one_thread():
        yield


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def loss_gradient(model: torch.nn.Module, window: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """d loss / d weight in float64."""
    with torch.enable_grad():
        logits = model(input_ids=window[None], use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], window[1:])
        return torch.autograd.grad(loss, weight)[0]


def exact_trace(model: torch.nn.Module, window: torch.Tensor, name: str) -> float:
    """1/2 sum_ij |w_i|^2 / in H_ij,ij by central differences of the gradient, entry by entry."""
    weight = model.get_parameter(f"{name}.weight").requires_grad_(True)
    total, step = 0.0, 1e-5
    energy = weight.detach().square().sum(dim=1) / weight.shape[1]
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            kept = weight.data[i, j].item()
            sides = []
            for sign in (1, -1):
                weight.data[i, j] = kept + sign * step
                sides.append(loss_gradient(model, window, weight)[i, j].item())
            weight.data[i, j] = kept
            total += 0.5 * energy[i].item() * (sides[0] - sides[1]) / (2 * step)
    weight.requires_grad_(False)
    return total


def test_the_trace_is_that_of_the_hessian() -> None:
    """In the mean over draws, within its standard error."""
    model, window = tiny_llama().double(), tokens(1, 6)[0]
    names = ["model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.o_proj"]
    slots = {name: slot for name, slot in linear_slots(model).items() if name in names}
    windows = window.repeat(300, 1)
    table = HessianTrace(draws=300, tokens=6).measure(model, slots, windows, generator=generator()).set_index("layer")
    for name in names:
        exact, row = exact_trace(model, window, name), table.loc[name]
        assert row.sensitivity_se < 0.2 * abs(exact)
        assert abs(row.sensitivity - max(exact, 0.0)) < 4 * row.sensitivity_se


@pytest.mark.parametrize("build", [tiny_llama, tiny_mixtral])
def test_every_layer_has_a_trace_and_the_model_is_as_it_was(build) -> None:
    model = build()
    slots = linear_slots(model)
    kept = {name: slot.weight.clone() for name, slot in slots.items()}
    table = HessianTrace(draws=2, tokens=6).measure(model, slots, tokens(2, 6), generator=generator())
    assert list(table.layer) == list(slots)
    assert (table.sensitivity >= 0).all()
    assert table.sensitivity.max() > 0
    assert all(torch.equal(slot.weight, kept[name]) for name, slot in slots.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_block_turns_by_the_angle_between_its_hidden_states() -> None:
    model, window = tiny_llama(), tokens(1, 9)[0]
    with torch.no_grad():
        states = model(input_ids=window[None], output_hidden_states=True).hidden_states
    # the last hidden state is after the final norm: only the first block's output is among them as it is
    before, after = states[0][0].double(), states[1][0].double()
    cosine = (before * after).sum(dim=1) / (before.norm(dim=1) * after.norm(dim=1))
    found = turns(model, ["model.layers.0", "model.layers.1"], window)
    assert found["model.layers.0"] == pytest.approx(1 - cosine.mean().item(), rel=1e-6)
    assert 0 < found["model.layers.1"] < 2


def test_layers_of_a_block_count_by_their_size() -> None:
    model, windows = tiny_llama(), tokens(3, 9)
    slots = linear_slots(model)
    table = LayerCosine(count=3, tokens=9, total=2.0).measure(model, slots, windows, generator=generator())
    assert table.sensitivity.sum() == pytest.approx(2.0)
    density = table.sensitivity / [slot.weight.numel() for slot in slots.values()]
    blocks = table.layer.str.split(".").str[2]
    assert density.groupby(blocks).agg(np.ptp).max() == pytest.approx(0.0, abs=1e-12)
    mean = [np.mean([turns(model, [f"model.layers.{b}"], w)[f"model.layers.{b}"] for w in windows]) for b in (0, 1)]
    assert density[blocks == "1"].iloc[0] / density[blocks == "0"].iloc[0] == pytest.approx(mean[1] / mean[0])


def test_layer_cosine_needs_numbered_blocks() -> None:
    model = tiny_llama()
    slots = {"head": next(iter(linear_slots(model).values()))}
    with pytest.raises(ValueError, match="'head' stands in no numbered block"):
        LayerCosine(count=1, tokens=5).measure(model, slots, tokens(1, 5), generator=generator())
