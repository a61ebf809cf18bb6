"""Fisher sensitivities against the Fisher information by enumeration of every token at every position."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from sensitivity_models import exact_sensitivity, one_thread, tiny_llama, tiny_mixtral, tokens

from alloc.sensitivity import Fisher
from alloc.sensitivity.fisher import score
from alloc.sensitivity.gradients import owner, squared_row_gradients
from quantizers.models import linear_slots


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with one_thread():
        yield


def test_the_score_has_the_covariance_of_a_sampled_label() -> None:
    p = torch.softmax(torch.tensor([0.3, -1.0, 2.0, 0.0, 1.0]), dim=0).double()
    signs = torch.tensor(list(itertools.product((-1, 1), repeat=5)))
    v = score(p.expand(len(signs), 5), signs)
    torch.testing.assert_close(v.mean(dim=0), torch.zeros_like(p))
    torch.testing.assert_close(v.T @ v / len(v), torch.diag(p) - torch.outer(p, p))


def test_draws_are_unbiased() -> None:
    """Although the 6 positions share a backward pass: their cross terms have mean zero."""
    model, window = tiny_llama(), tokens(1, 6)
    exact = exact_sensitivity(model, window[0])
    table = Fisher(draws=400, tokens=6).measure(
        model, linear_slots(model), window.repeat(400, 1), generator=torch.Generator().manual_seed(0)
    )
    assert list(table.layer) == list(exact)
    assert set(table.sensitivity_method) == {"fisher"}
    for row in table.itertuples():
        assert row.sensitivity_se < 0.15 * exact[row.layer]
        assert abs(row.sensitivity - exact[row.layer]) < 4 * row.sensitivity_se, row


@pytest.mark.parametrize("build", [tiny_llama, tiny_mixtral])
def test_row_gradients_are_autograds(build) -> None:
    """Experts are slices of a 3-D parameter."""
    model, window = build(), tokens(1, 5)
    slots = linear_slots(model)
    found: dict[str, torch.Tensor] = {}
    with squared_row_gradients(model, slots, found.__setitem__):
        model(input_ids=window).logits.square().sum().backward()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.requires_grad_(True)
    model(input_ids=window).logits.square().sum().backward()
    for name, slot in slots.items():
        expected = slot.parameter.grad[slot.index].square().sum(dim=1)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_a_copied_weight_has_no_owner() -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match="not a view"):
        owner(model, model.model.layers[0].mlp.up_proj.weight.detach().clone())


def test_flags_come_back_after_an_error() -> None:
    model = tiny_llama()
    with pytest.raises(RuntimeError, match="stop"), squared_row_gradients(model, linear_slots(model), print):
        raise RuntimeError("stop")
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_every_draw_has_a_window_of_its_own() -> None:
    model, windows = tiny_llama(), tokens(4, 8)
    seen: list[list[int]] = []
    hook = model.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    Fisher(draws=3, tokens=5).measure(model, linear_slots(model), windows, generator=torch.Generator())
    hook.remove()
    assert seen == windows[:3, :5].tolist()


def test_bad_input() -> None:
    model = tiny_llama()
    slots, generator = linear_slots(model), torch.Generator()
    with pytest.raises(ValueError, match="there are 2"):
        Fisher(draws=3, tokens=8).measure(model, slots, tokens(2, 8), generator=generator)
    with pytest.raises(ValueError, match="count >= 1"):
        Fisher().measure(model, slots, tokens(2, 8)[0], generator=generator)
    with pytest.raises(ValueError, match="no layer"):
        Fisher().measure(model, {}, tokens(2, 8), generator=generator)
    with pytest.raises(ValueError, match="draws >= 2"):
        Fisher(draws=1)
