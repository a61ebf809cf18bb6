"""budget.vram_bytes: what the cache and the workspace leave, by hand, and the plan that fits into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_alloc_problem import folder
from test_experiment_allocate import command
from transformers import LlamaConfig, Qwen3Config

from experiments.vram import bytes_for_weights, cache_bytes

GIB = 1 << 30
SMALL: dict[str, Any] = {"vram_bytes": 100_000, "context": 10, "config": None, "workspace_bytes": 1000}


def small() -> LlamaConfig:
    return LlamaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)


def test_caches_by_hand() -> None:
    assert cache_bytes(small(), context=10, batch=2) == 3 * 2 * (2 * 16) * 10 * 2 * 2
    llama = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
    assert cache_bytes(llama, context=8192, batch=1) == GIB  # 128 KiB a token
    qwen = Qwen3Config(num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128)
    assert cache_bytes(qwen, context=1, batch=1) == 36 * 8 * 128 * 2 * 2


def test_what_is_left_for_weights(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    assert bytes_for_weights(SMALL, tmp_path, batch=1) == 100_000 - 3840 - 1000
    with pytest.raises(ValueError, match="leaves nothing for weights: the cache of 1000 tokens x 1 takes 384000"):
        bytes_for_weights({**SMALL, "context": 1000}, tmp_path, batch=1)
    with pytest.raises(ValueError, match=r"budget\.context=0"):
        bytes_for_weights({**SMALL, "context": 0}, tmp_path, batch=1)
    with pytest.raises(FileNotFoundError, match=r"budget\.config=FOLDER"):
        bytes_for_weights(SMALL, tmp_path / "absent", batch=1)


def test_one_limit_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = folder(tmp_path / "tables")
    both = ["budget.vram_bytes=100000", "budget.memory_bytes=800"]
    assert command(monkeypatch, f"tables={tables}", f"out={tmp_path / 'out'}", *both) == 2
    assert "set one of them" in capsys.readouterr().err


def test_a_plan_fits_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the same as that of memory_bytes on the whole model."""
    tables = folder(tmp_path / "tables")
    small().save_pretrained(tables)
    largest = 800  # of 938 in 16 bits
    for name, budget in (
        ("card", [f"budget.vram_bytes={largest + 3840 + 1000}", "budget.context=10", "budget.workspace_bytes=1000"]),
        ("weights", [f"budget.memory_bytes={largest}", "budget.whole_model=true"]),
    ):
        assert command(monkeypatch, f"tables={tables}", f"out={tmp_path / name}", *budget) == 0
    plans = [json.loads((tmp_path / name / "allocation.json").read_text()) for name in ("card", "weights")]
    assert plans[0]["layers"] == plans[1]["layers"]
    assert {layer["quantizer"] for layer in plans[0]["layers"].values()} != {"fp16"}
