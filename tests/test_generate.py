"""Text from a checkpoint against step-by-step argmax, the chat template, and the two commands end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from checkpoint_models import STATE_BITS, folder_hashes, mixed, tiny, uniform
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import experiments.quantize as quantize
from alloc.choice import Choice
from alloc.solution import Solution
from experiments.generate import generate, prompt_tokens, usable_device
from quantizers import make_quantizer
from quantizers.checkpoint import load_checkpoint, write_checkpoint
from quantizers.models import LoadedModel, linear_slots

TEMPLATE = "{% for m in messages %}user {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}answer{% endif %}"


def tokenizer(template: str | None = None) -> Any:
    """Words w0 .. w91, user, answer, end."""
    words = ["end", "user", "answer", "unknown", *(f"w{i}" for i in range(92))]
    word_level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="unknown"))
    word_level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=word_level, unk_token="unknown", eos_token="end")
    fast.chat_template = template
    return fast


def with_tokenizer(model: LoadedModel, template: str | None = None) -> LoadedModel:
    return LoadedModel(
        model=model.model, tokenizer=tokenizer(template), path=model.path, source_dtype=model.source_dtype
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "c"
    model = with_tokenizer(tiny(), TEMPLATE)
    write_checkpoint(folder, model, mixed(model), rotation_seed=0, state_bits=STATE_BITS, cache=None)
    return folder


def test_the_tokenizer_comes_along(checkpoint: Path) -> None:
    text = "w5 w90 answer nothing"
    assert AutoTokenizer.from_pretrained(checkpoint)(text)["input_ids"] == tokenizer()(text)["input_ids"]
    assert load_checkpoint(checkpoint).tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize("packed", [False, True])
def test_the_lean_step_says_the_same(checkpoint: Path, packed: bool) -> None:
    loaded = load_checkpoint(checkpoint, packed=packed)
    given = {"max_new_tokens": 40, "temperature": 0.0, "chat": True, "seed": 0}
    assert generate(loaded, "w1 w2 w3", step="lean", **given) == generate(loaded, "w1 w2 w3", **given)
    with pytest.raises(ValueError, match="lean is greedy"):
        generate(loaded, "w1", step="lean", **{**given, "temperature": 1.0})


@pytest.mark.parametrize("packed", [False, True])
def test_greedy_is_the_argmax_of_every_step(checkpoint: Path, packed: bool) -> None:
    loaded = load_checkpoint(checkpoint, packed=packed)
    text, count = generate(loaded, "w1 w2 w3", max_new_tokens=6, temperature=0.0, chat=False, seed=0)
    tokens = loaded.tokenizer("w1 w2 w3", return_tensors="pt")["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            best = loaded.model(tokens).logits[0, -1].argmax()
        tokens = torch.cat([tokens, best.view(1, 1)], dim=1)
        if best == loaded.model.generation_config.eos_token_id:
            break
    assert count == tokens.shape[1] - 3
    assert text == loaded.tokenizer.decode(tokens[0, 3:], skip_special_tokens=True)


def test_sampling_follows_its_seed(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)

    def sample(seed: int) -> str:
        return generate(loaded, "w1", max_new_tokens=20, temperature=1.0, chat=False, seed=seed)[0]

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_chat_uses_the_template_where_there_is_one() -> None:
    def words(template: str | None, chat: bool) -> list[str]:
        fast = tokenizer(template)
        return fast.convert_ids_to_tokens(prompt_tokens(fast, "w7 w8", chat=chat)[0].tolist())

    assert words(TEMPLATE, True) == ["user", "w7", "w8", "answer"]
    assert words(TEMPLATE, False) == words(None, True) == ["w7", "w8"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"max_new_tokens": 128}, "takes 1 to 128"),
        ({"prompt": ""}, "a prompt of 0 tokens"),
    ],
)
def test_settings_that_make_no_sense(checkpoint: Path, settings: dict[str, Any], message: str) -> None:
    given = {"prompt": "w1", "max_new_tokens": 4, "temperature": 0.0, "chat": False, "seed": 0} | settings
    with pytest.raises(ValueError, match=message):
        generate(load_checkpoint(checkpoint), given.pop("prompt"), **given)


def test_devices() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device=abacus"):
        usable_device("abacus")


def test_a_checkpoint_without_tokenizer(tmp_path: Path) -> None:
    model = tiny()
    write_checkpoint(tmp_path / "c", model, uniform(model, "nuq-2"), rotation_seed=0, state_bits=STATE_BITS, cache=None)
    with pytest.raises(ValueError, match="no tokenizer"):
        generate(load_checkpoint(tmp_path / "c"), "w1", max_new_tokens=1, temperature=0.0, chat=False, seed=0)


def config(folder: Path, **changes: Any) -> Any:
    values = {
        "model": {"path": "tiny", "sha256": None}, "plan": None, "uniform": None, "out": str(folder / "c"),
        "state_bits": STATE_BITS, "rotation": {"seed": 0, "most_block": 0},
        "feedback": {"_target_": "quantizers.feedback.Plain"}, "hessians": None, "cache": str(folder / "cache"),
    }  # fmt: skip
    return OmegaConf.create(values | changes)


@pytest.fixture
def local_model(monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """`experiments.quantize` finds the tiny model under any path."""
    model = with_tokenizer(tiny())
    monkeypatch.setattr(quantize, "load_model", lambda path, verify_sha256: model)
    return model


def plan(model: LoadedModel, budget: int | None = None) -> Solution:
    """A plan of nuq-3 and vq-2 with its exact bytes, or said to be within `budget`."""
    slots = linear_slots(model.model)
    layers = {name: Choice(quantizer=("nuq-3", "vq-2")[i % 2]) for i, name in enumerate(slots)}
    cost = sum(make_quantizer(layers[n].quantizer).storage_bytes(*s.weight.shape) for n, s in slots.items())
    limit = cost if budget is None else budget
    return Solution(
        objective=1.0, lower_bound=1.0, gap=0.0, status="optimal", costs={"memory_bytes": min(cost, limit)},
        budgets={"memory_bytes": limit}, tolerance=1e-9, prices={}, layers=layers, solver="exact", runtime_s=0.0,
    )  # fmt: skip


def test_quantize_follows_its_plan(
    local_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    solution = plan(local_model)
    monkeypatch.setattr(quantize, "read_allocation", lambda path: solution)
    quantize.main(config(tmp_path, plan="allocation.json"))
    report = pd.read_csv(tmp_path / "c.run/quantization.csv")
    assert dict(zip(report.layer, report.quantizer, strict=True)) == {
        name: choice.quantizer for name, choice in solution.layers.items()
    }
    assert report.storage_bytes.sum() == solution.costs["memory_bytes"]
    assert (tmp_path / "c.run/run.json").is_file()
    assert f"{report.storage_bytes.sum():,} bytes" in capsys.readouterr().out
    before = folder_hashes(tmp_path / "c")
    quantize.main(config(tmp_path, plan="allocation.json"))
    assert folder_hashes(tmp_path / "c") == before
    assert pd.read_csv(tmp_path / "c.run/quantization.csv").cached.all()


def test_quantize_refuses_a_plan_that_breaks_its_budget(
    local_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = int(plan(local_model).costs["memory_bytes"])
    solution = plan(local_model, budget=exact - 1)
    monkeypatch.setattr(quantize, "read_allocation", lambda path: solution)
    with pytest.raises(ValueError, match=f"would hold {exact} bytes, over the plan's budget of {exact - 1}"):
        quantize.main(config(tmp_path, plan="allocation.json"))
    assert list(tmp_path.iterdir()) == []


def test_quantize_needs_one_plan(local_model: LoadedModel, tmp_path: Path) -> None:
    for changes in ({}, {"plan": "a.json", "uniform": "nuq-2"}):
        with pytest.raises(ValueError, match="either plan="):
            quantize.main(config(tmp_path, **changes))
    with pytest.raises(ValueError, match="nuq-11"):
        quantize.main(config(tmp_path, uniform="nuq-11"))
    assert list(tmp_path.iterdir()) == []
