"""Embedding and head are measured like other layers; noise on a tied weight is noise on both its uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sensitivity_models import exact_sensitivity, one_thread, tiny_llama, tokens

from alloc.sensitivity import Fisher, HessianTrace, LayerCosine, Noise
from alloc.sensitivity.joint import joint_loss
from quantizers.checkpoint.encoding import encode_layers, fresh_code, planned_layers
from quantizers.checkpoint.layout import LayerChoice
from quantizers.feedback import Correction, Ldlq, SecondMoments, write_settings
from quantizers.feedback.calibration import calibrate
from quantizers.feedback.correction import relative_error
from quantizers.feedback.token_weights import AttentionConcentration
from quantizers.models import linear_slots

ENDS = {True: ["lm_head"], False: ["model.embed_tokens", "lm_head"]}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("tied", [True, False])
def test_the_ends_are_measured_by_definition(tied: bool) -> None:
    """Squared gradients and noise, each against the Fisher information by enumeration."""
    model, window = tiny_llama(tied=tied), tokens(1, 6)
    slots = linear_slots(model, head=True)
    assert [name for name, slot in slots.items() if not slot.in_block] == ENDS[tied]
    exact = exact_sensitivity(model, window[0], head=True)
    generator = torch.Generator().manual_seed(0)
    fisher = Fisher(draws=400, tokens=6).measure(model, slots, window.repeat(400, 1), generator=generator)
    ends = {name: slots[name] for name in ENDS[tied]}
    noise = Noise(count=60, tokens=6, variances=(1e-4, 2e-4))
    table = noise.measure(model, ends, window.repeat(60, 1), generator=generator)
    for found in (fisher, table):
        rows = found.set_index("layer").loc[ENDS[tied]]
        for name, row in rows.iterrows():
            assert row.sensitivity_se < 0.2 * exact[str(name)]
            assert abs(row.sensitivity - exact[str(name)]) < 4 * row.sensitivity_se, name


def test_other_methods_take_the_ends_or_say_that_they_do_not() -> None:
    model, windows = tiny_llama(tied=False), tokens(4, 8)
    slots, generator = linear_slots(model, head=True), torch.Generator().manual_seed(0)
    table = HessianTrace(draws=4, tokens=8).measure(model, slots, windows, generator=generator)
    assert table.layer.tolist() == list(slots)
    assert joint_loss(model, slots, windows, dict.fromkeys(slots, 1e-3), generator=generator).kl > 0
    with pytest.raises(ValueError, match=r"'model\.embed_tokens' stands in no numbered block"):
        LayerCosine(count=2).measure(model, slots, windows, generator=generator)


@pytest.mark.parametrize("tied", [True, False])
def test_feedback_reads_what_the_head_multiplies_and_nothing_of_an_embedding(tied: bool, tmp_path: Path) -> None:
    model, windows = tiny_llama(tied=tied), tokens(8, 24)
    slots = linear_slots(model, head=True)
    inputs: list[torch.Tensor] = []
    hook = model.get_submodule("lm_head").register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
    for window in windows:
        model(input_ids=window[None])
    hook.remove()
    weights = AttentionConcentration()  # which are 1 of a head
    seen = calibrate(tmp_path, model, slots, windows, token_weights=weights, rotation_seed=0)
    assert set(seen) == {slot.fusion_group for slot in slots.values() if slot.multiplies}
    write_settings(tmp_path, {"rotation_seed": 0})
    correction = Correction(method=Ldlq(), moments=SecondMoments(tmp_path))
    choices = {name: LayerChoice(quantizer="nuq-2") for name in slots}
    layers = {layer.slot.name: layer for layer in planned_layers(model, slots, choices, rotation_seed=0, state_bits=8)}
    head, x = layers["lm_head"], torch.cat(inputs)
    H, R = correction.moment("lm_head"), head.rotation
    assert R is not None
    assert H is not None
    turned = R.rotate_input(x).double()
    torch.testing.assert_close(H.double(), turned.T @ turned / len(x), rtol=1e-3, atol=1e-4)
    W = R.rotate_weight(head.slot.weight)
    errors = [
        relative_error(W, head.quantizer.decode(fresh_code(head, head.slot.weight, how, moment).encoded), H)
        for how, moment in ((correction, H), (correction, None))
    ]
    assert errors[0] < errors[1], "with feedback the head loses less on what it reads"


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_with_feedback_codes_the_embedding_plainly(tied: bool, tmp_path: Path) -> None:
    model = tiny_llama(tied=tied)
    slots = linear_slots(model, head=True)
    calibrate(tmp_path, model, slots, tokens(8, 24), token_weights=AttentionConcentration(), rotation_seed=0)
    write_settings(tmp_path, {"rotation_seed": 0})
    choices = {name: LayerChoice(quantizer="nuq-2") for name in slots}
    layers = planned_layers(model, slots, choices, rotation_seed=0, state_bits=8)
    correction = Correction(method=Ldlq(), moments=SecondMoments(tmp_path))
    plain = {code.layer.slot.name: code.encoded.tensors["codes"] for code in encode_layers(layers, None)}
    fed = {
        code.layer.slot.name: code.encoded.tensors["codes"] for code in encode_layers(layers, None, None, correction)
    }
    same = {name for name in plain if torch.equal(plain[name], fed[name])}
    assert same == (set() if tied else {"model.embed_tokens"})
