"""Small random models for the tests of sensitivities and evaluation, and their Fisher information by enumeration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from quantizers.models import LinearSlot, linear_slots

VOCABULARY = 12


def tiny_llama(*, tied: bool = True) -> nn.Module:
    """Two blocks of width 16; weights large enough for predictions that are far from uniform."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def write_tiny_folder(out: Path) -> None:
    """`out/model`, a checkpoint with a tokenizer of single words, and `out/text.txt`, documents of random ones."""
    tiny_llama().save_pretrained(out / "model")
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(out / "model")
    words = torch.randint(VOCABULARY, (6, 400), generator=torch.Generator().manual_seed(0))
    lines = [" ".join(f"w{i}" for i in row) for row in words.tolist()]
    (out / "text.txt").write_text("\n".join(lines) + "\n")


def tiny_mixtral() -> nn.Module:
    """A mixture of three experts, whose layers are slices of 3-D parameters."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        num_experts_per_tok=2,
        initializer_range=0.3,
    )
    return MixtralForCausalLM(config).eval().requires_grad_(False)


def tokens(count: int, length: int) -> torch.Tensor:
    """(count, length) random token ids."""
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(1))


def exact_sensitivity(model: nn.Module, window: torch.Tensor, *, head: bool = False) -> dict[str, float]:
    """1 / 2T sum_t sum_y p_t(y) sum_i |w_i|^2 / in |d log p_t(y) / dw_i|^2: a backward pass per position and token.
    head: of `linear_slots`."""
    slots: dict[str, LinearSlot] = linear_slots(model, head=head)
    weights = {name: model.get_parameter(f"{name}.weight") for name in slots}
    for weight in weights.values():
        weight.requires_grad_(True)
    log_p = torch.log_softmax(model(input_ids=window[None]).logits[0].double(), dim=-1)
    total = dict.fromkeys(slots, 0.0)
    for position in log_p:
        for entry in position:
            gradients = torch.autograd.grad(entry, list(weights.values()), retain_graph=True)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                energy = weight.detach().square().sum(dim=1) / weight.shape[1]
                value = (energy * gradient.square().sum(dim=1)).sum().item()
                total[name] += entry.exp().item() * value / (2 * len(window))
    for weight in weights.values():
        weight.requires_grad_(False)
    return total


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrices of 16 x 16 are slower on two threads, and far slower where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
