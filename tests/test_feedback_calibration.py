"""Second moments against what the layers put out, and their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sensitivity_models import one_thread, tiny_llama, tiny_mixtral, tokens
from torch import nn
from torch.nn import functional

from quantizers.feedback import AttentionConcentration, SecondMoments, TokenWeights, Uniform, weighted_energy
from quantizers.feedback.calibration import calibrate
from quantizers.feedback.moments import TENSORS, MomentWriter, write_settings
from quantizers.feedback.token_weights import attention_received
from quantizers.models import LinearSlot, linear_slots
from quantizers.rotation import Rotation


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    with one_thread():
        yield


def measured(
    folder: Path, model: nn.Module, windows: torch.Tensor, token_weights: TokenWeights | None = None, **more: int
) -> tuple[SecondMoments, dict[str, int]]:
    seen = calibrate(
        folder,
        model,
        linear_slots(model),
        windows,
        token_weights=Uniform() if token_weights is None else token_weights,
        rotation_seed=0,
        **more,
    )
    write_settings(folder, {"rotation_seed": 0})
    return SecondMoments(folder), seen


def rotation(slot: LinearSlot) -> Rotation:
    return Rotation(in_features=slot.weight.shape[1], seed=0, group=slot.fusion_group)


def test_the_moment_gives_the_energy_of_every_output(tmp_path: Path) -> None:
    """tr(W R' H R W') is the mean of |W x|^2, which the linears themselves put out."""
    model, windows = tiny_llama(), tokens(3, 20)
    slots = linear_slots(model)
    energies = dict.fromkeys(slots, 0.0)

    def listen(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: object, output: torch.Tensor) -> None:
            energies[name] += float(output.double().square().sum())

        return hook

    handles = [model.get_submodule(name).register_forward_hook(listen(name)) for name in slots]
    for window in windows:
        model(input_ids=window[None])
    for handle in handles:
        handle.remove()
    moments, seen = measured(tmp_path, model, windows)
    for name, slot in slots.items():
        H = moments.moment(slot.fusion_group)
        assert torch.equal(H, H.T)
        energy = weighted_energy(rotation(slot).rotate_weight(slot.weight), H)
        assert energy == pytest.approx(energies[name] / windows.numel(), rel=1e-4)
        assert seen[slot.fusion_group] == windows.numel()


def test_experts_see_the_tokens_that_are_routed_to_them(tmp_path: Path) -> None:
    model, windows = tiny_mixtral(), tokens(2, 24)
    path = "model.layers.1.mlp.experts"
    module = model.get_submodule(path)
    inputs: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}

    def hook(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        for x, chosen in zip(arguments[0], arguments[1], strict=True):
            for expert in chosen.tolist():
                inputs[expert].append(x)

    handle = module.register_forward_pre_hook(hook)
    for window in windows:
        model(input_ids=window[None])
    handle.remove()
    moments, seen = measured(tmp_path, model, windows)
    slots = linear_slots(model)
    for expert, rows in inputs.items():
        x = torch.stack(rows)
        gate, up, down = (slots[f"{path}.{expert}.{part}_proj"] for part in ("gate", "up", "down"))
        inner = functional.silu(x @ gate.weight.T) * (x @ up.weight.T)
        for slot, X in ((gate, x), (down, inner)):
            turned = rotation(slot).rotate_input(X).double()
            expected = (turned.T @ turned / len(X)).float()
            assert torch.allclose(moments.moment(slot.fusion_group), expected, rtol=1e-4, atol=1e-6)
            assert seen[slot.fusion_group] == len(rows)


def test_an_expert_without_tokens_has_no_feedback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_mixtral()
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.gate.weight")[2] = 0
        model.get_parameter("model.layers.0.mlp.gate.weight")[:2] *= 0
        model.get_parameter("model.layers.0.mlp.gate.weight")[:2] += 1
    windows = tokens(1, 1).repeat(1, 3)  # one token: its router's scores are equal everywhere
    moments, seen = measured(tmp_path, model, windows)
    silent = [group for group, count in seen.items() if count == 0]
    assert silent
    for group in silent:
        assert torch.equal(moments.moment(group), torch.eye(len(moments.moment(group))))
        assert group in caplog.text


def test_little_memory_takes_more_passes_to_the_same_moments(tmp_path: Path) -> None:
    model, windows = tiny_llama(), tokens(2, 16)
    steps: list[int] = []
    measured(tmp_path / "one", model, windows)
    calibrate(
        tmp_path / "many",
        model,
        linear_slots(model),
        windows,
        token_weights=Uniform(),
        rotation_seed=0,
        memory_bytes=8 * 24 * 24,
        progress=lambda done, total, text: steps.append(total),
    )
    assert steps[0] > len(windows)
    assert len(steps) == steps[-1]
    assert (tmp_path / "one" / TENSORS).read_bytes() == (tmp_path / "many" / TENSORS).read_bytes()
    with pytest.raises(ValueError, match=r"mlp\.down has 24 inputs.*4608 bytes"):
        measured(tmp_path / "none", model, windows, memory_bytes=8 * 16 * 16)
    assert not list((tmp_path / "none").glob("*"))


def test_attention_received_adds_up_and_weighs(tmp_path: Path) -> None:
    model, window = tiny_llama(), tokens(1, 18)[0]
    slots = linear_slots(model)
    before = model.config._attn_implementation
    received = attention_received(model, window)
    assert model.config._attn_implementation == before
    assert set(received) == {"model.layers.0", "model.layers.1"}
    for (
        sums
    ) in received.values():  # each of 2 heads x 18 queries hands out an attention of one; the last sees itself only
        assert sums.sum().item() == pytest.approx(2 * 18, rel=1e-5)
        assert 0 < sums[-1] < 2
    weights = AttentionConcentration(floor=0.1).measure(model, slots, window)
    assert set(weights) == {slot.fusion_group for slot in slots.values()}
    for group, w in weights.items():
        sums = received[".".join(group.split(".")[:3])]
        assert w.min().item() == pytest.approx(0.01)
        assert w.max().item() == pytest.approx(1.0)
        assert torch.equal(w.argsort(), sums.argsort())


def test_weighted_moments_are_weighted_sums(tmp_path: Path) -> None:
    model, windows = tiny_llama(), tokens(2, 16)
    same, _ = measured(tmp_path / "flat", model, windows, AttentionConcentration(floor=1.0))
    uniform, _ = measured(tmp_path / "uniform", model, windows)
    group = "model.layers.0.self_attn.qkv"
    assert torch.allclose(same.moment(group), uniform.moment(group), rtol=1e-4, atol=1e-6)
    found, _ = measured(tmp_path / "weighted", model, windows, AttentionConcentration())
    total, mass = torch.zeros(16, 16, dtype=torch.float64), 0.0
    inputs: list[torch.Tensor] = []
    handle = model.get_submodule("model.layers.0.self_attn.q_proj").register_forward_pre_hook(
        lambda _, arguments: inputs.append(arguments[0][0])
    )
    turn = Rotation(in_features=16, seed=0, group=group)
    for window in windows:
        w = AttentionConcentration().measure(model, linear_slots(model), window)[group].double()
        inputs.clear()
        model(input_ids=window[None])
        x = turn.rotate_input(inputs[0].double())
        total += (x * w[:, None]).T @ x
        mass += float(w.sum())
    handle.remove()
    assert torch.allclose(found.moment(group).double(), total / mass, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="floor"):
        AttentionConcentration(floor=0.0)


def test_moments_come_back_and_are_checked(tmp_path: Path) -> None:
    H = {"a": torch.eye(3), "b": torch.arange(25.0).view(5, 5)}
    with MomentWriter(tmp_path, {"a": 3, "b": 5}) as writer:
        for group, moment in H.items():
            writer.add(group, moment)
    moments = SecondMoments(tmp_path)
    with pytest.raises(FileNotFoundError, match="calibrate"):
        moments.check({"a": 3}, 0)
    write_settings(tmp_path, {"rotation_seed": 7})
    for group, moment in H.items():
        assert torch.equal(moments.moment(group), moment)
    moments.check({"a": 3, "b": 5}, 7)
    with pytest.raises(ValueError, match=r"rotation\.seed=7, not 0"):
        moments.check({"a": 3}, 0)
    moments.check({"a": 3, "b": 5}, 7, 2048)  # no block of theirs is limited
    with pytest.raises(ValueError, match=r"rotation\.most_block=0, not 256"):
        moments.check({"a": 3, "c": 512}, 7, 256)
    for sizes in ({"c": 3}, {"a": 4}):
        with pytest.raises(ValueError, match="another model"):
            moments.check(sizes, 7)
    (tmp_path / TENSORS).write_bytes((tmp_path / TENSORS).read_bytes()[:-4])
    with pytest.raises(ValueError, match=TENSORS):
        moments.moment("b")
    (tmp_path / "hessians.json").write_text(json.dumps({"rotation_seed": None}))
    with pytest.raises(ValueError, match="damaged"):
        SecondMoments(tmp_path).check({"a": 3}, 0)


def test_a_stopped_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), MomentWriter(tmp_path, {"a": 2}):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
