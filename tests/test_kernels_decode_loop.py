"""Text by the lean step equals transformers' own greedy text, of dense, packed and fused models."""

from __future__ import annotations

import pytest
import torch
from step_models import tiny
from transformers import Gemma2Config, Gemma2ForCausalLM, GenerationConfig

from quantizers.kernels.decode_loop import greedy_tokens, until_end


@pytest.mark.parametrize(
    ("name", "batch", "length", "plan"),
    [
        ("llama", 1, 5, "nuq-4:unfused"),
        ("qwen3", 3, 20, "vq-2:fused"),
        ("qwen2", 1, 17, "nuq-3:fused"),
        ("llama-biased", 2, 1, "fp16:fused"),
    ],
)
def test_tokens_are_those_of_transformers(name: str, batch: int, length: int, plan: str) -> None:
    model = tiny(name, plan)
    prompt = torch.randint(0, 96, (batch, length), generator=torch.Generator().manual_seed(length))
    settings = GenerationConfig(max_new_tokens=9, do_sample=False, pad_token_id=0)
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)[:, length:]
    assert torch.equal(greedy_tokens(model, prompt, 9), theirs)


def test_it_stops_when_all_have_ended() -> None:
    model = tiny("llama", "fp16:fused")
    prompt = torch.tensor([[3, 1, 4], [1, 5, 9]])
    whole = greedy_tokens(model, prompt, 40)
    assert whole.shape == (2, 40)
    ends = {int(whole[0, 7]), int(whole[1, 3])}
    some = greedy_tokens(model, prompt, 40, ends=ends)
    assert some.shape == (2, 16), "looked for every 16 tokens"
    assert torch.equal(some, whole[:, :16])
    cut = until_end(some[0], ends)
    assert int(cut[-1]) in ends
    assert not set(cut[:-1].tolist()) & ends
    assert torch.equal(until_end(some[0], {-1}), some[0])


def test_what_is_not_lean_is_said() -> None:
    config = Gemma2Config(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    with pytest.raises(ValueError, match="no lean step for gemma2"):
        greedy_tokens(Gemma2ForCausalLM(config), torch.zeros(1, 3, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="both are at least 1"):
        greedy_tokens(tiny("llama", "fp16:fused"), torch.zeros(1, 0, dtype=torch.int64), 2)
