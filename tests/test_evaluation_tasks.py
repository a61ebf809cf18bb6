"""A zero-shot task from local files: accuracy is that of the answer with the highest log-probability."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from sensitivity_models import VOCABULARY, tiny_llama

from quantizers.evaluation.tasks import MISSING, check_tasks_available, evaluate_tasks
from quantizers.models import LoadedModel

INSTALLED = all(importlib.util.find_spec(name) for name in ("lm_eval", "datasets"))
needs_lm_eval = pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed (the extra `tasks`)")

TASK = """task: pick_a_word
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def words_model(folder: Path) -> LoadedModel:
    """The tiny model with a tokenizer of one token per word w0 ... w11."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0", pad_token="w0", model_max_length=64)
    return LoadedModel(model=tiny_llama(), tokenizer=fast, path=folder, source_dtype="float32")


def documents() -> list[dict[str, object]]:
    """12 questions of five words, each with three one-word answers."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randperm(VOCABULARY - 1, generator=generator)[:8].add(1).tolist() for _ in range(12)]
    return [
        {"question": " ".join(f"w{i}" for i in row[:5]), "choices": [f"w{i}" for i in row[5:]], "answer": n % 3}
        for n, row in enumerate(ids)
    ]


def write_task(folder: Path) -> None:
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents()))
    (folder / "pick_a_word.yaml").write_text(TASK.format(data=data))


@needs_lm_eval
def test_accuracy_is_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_task(tmp_path)
    loaded = words_model(tmp_path)
    frame = evaluate_tasks(loaded, "plan", ["pick_a_word"], include=str(tmp_path))
    right = 0
    for document in documents():
        ids = torch.tensor([[int(word[1:]) for word in str(document["question"]).split()]])
        scores = loaded.model(input_ids=ids).logits[0, -1]
        choices = [scores[int(word[1:])].item() for word in document["choices"]]  # type: ignore[attr-defined]
        right += choices.index(max(choices)) == document["answer"]
    row = frame[frame.metric == "acc"].iloc[0]
    assert (row.plan, row.task, row.samples) == ("plan", "pick_a_word", 12)
    assert row.value == pytest.approx(right / 12)


@needs_lm_eval
def test_unknown_task_and_folder_are_named(tmp_path: Path) -> None:
    loaded = words_model(tmp_path)
    with pytest.raises(ValueError, match="no task 'no_such_task'"):
        evaluate_tasks(loaded, "plan", ["no_such_task"], include=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="absent"):
        evaluate_tasks(loaded, "plan", ["pick_a_word"], include=str(tmp_path / "absent"))


def test_without_lm_eval_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as caught:
        check_tasks_available()
    assert str(caught.value) == MISSING
    assert "pip install" in MISSING
