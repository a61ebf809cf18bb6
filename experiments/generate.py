"""`python -m experiments.generate checkpoint=DIR prompt="..."`: text from a checkpoint, on the CPU or a GPU.

Greedy by default, with `step=lean` by one CUDA graph a token where there is a GPU; `temperature` > 0 samples from
softmax(logits / temperature), seeded. With `chat=true` the prompt is one user message in the tokenizer's chat template,
where it has one."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from experiments.entry import run
from quantizers.checkpoint import load_checkpoint
from quantizers.kernels.decode_loop import greedy_tokens, until_end
from quantizers.models import LoadedModel

STEPS = ("transformers", "lean")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(cfg: DictConfig) -> None:
    """Print the continuation to stdout, its speed to stderr."""
    if cfg.dtype not in DTYPES:
        raise ValueError(f"dtype={cfg.dtype} is not one of {', '.join(DTYPES)}")
    loaded = load_checkpoint(
        Path(cfg.checkpoint), device=usable_device(str(cfg.device)), dtype=DTYPES[cfg.dtype], packed=bool(cfg.packed)
    )
    start = time.perf_counter()
    text, count = generate(
        loaded,
        str(cfg.prompt),
        max_new_tokens=cfg.max_new_tokens,
        temperature=cfg.temperature,
        chat=cfg.chat,
        seed=cfg.seed,
        step=str(cfg.step),
    )
    seconds = time.perf_counter() - start
    print(text)
    print(f"{count} tokens in {seconds:.2f} s on {loaded.model.device}", file=sys.stderr)


def generate(
    loaded: LoadedModel, prompt: str, *, max_new_tokens: int, temperature: float, chat: bool, seed: int,
    step: str = "transformers",
) -> tuple[str, int]:  # fmt: skip
    """(continuation, number of its tokens). step: `transformers`, or `lean` (`decode_loop`), which is greedy.

    ValueError without a tokenizer, for a prompt that does not fit, or what the lean step does not do."""
    if loaded.tokenizer is None:
        raise ValueError(f"{loaded.path} holds no tokenizer")
    if max_new_tokens < 1 or temperature < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be >= 1, temperature={temperature} must be >= 0")
    tokens = prompt_tokens(loaded.tokenizer, prompt, chat=chat).to(loaded.model.device)  # (1, prompt)
    length, limit = tokens.shape[1], loaded.model.config.max_position_embeddings
    if length == 0 or length + max_new_tokens > limit:
        raise ValueError(f"a prompt of {length} tokens and {max_new_tokens} new ones: the model takes 1 to {limit}")
    if step not in STEPS or (step == "lean" and temperature > 0):
        raise ValueError(f"step={step} with temperature={temperature}: step is one of {STEPS}, and lean is greedy")
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    settings = generation_config(loaded, max_new_tokens, sampling)
    if step == "lean":
        named = settings.eos_token_id
        ends = {named} if isinstance(named, int) else set(named or ())
        output = until_end(greedy_tokens(loaded.model, tokens, max_new_tokens, ends=ends)[0], ends)
    else:
        torch.manual_seed(seed)  # transformers samples from the global generator
        mask = torch.ones_like(tokens)
        output = loaded.model.generate(tokens, attention_mask=mask, generation_config=settings)[0, length:]
    return loaded.tokenizer.decode(output, skip_special_tokens=True), len(output)


def prompt_tokens(tokenizer: Any, prompt: str, *, chat: bool) -> torch.Tensor:
    """(1, n) token ids of the prompt, in the chat template where asked for and there is one."""
    if chat and tokenizer.chat_template:
        message = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        return tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    return tokenizer(prompt, return_tensors="pt")["input_ids"].long()


def generation_config(loaded: LoadedModel, max_new_tokens: int, settings: dict[str, Any]) -> Any:
    """The checkpoint's special tokens, and nothing else of its sampling settings."""
    from transformers import GenerationConfig

    stored = loaded.model.generation_config
    ends = stored.eos_token_id if stored.eos_token_id is not None else loaded.tokenizer.eos_token_id
    padding = stored.pad_token_id
    if padding is None:
        padding = ends[0] if isinstance(ends, list) else ends
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        bos_token_id=stored.bos_token_id,
        eos_token_id=ends,
        pad_token_id=padding,
        **settings,
    )


def usable_device(name: str) -> torch.device:
    """The device; ValueError where torch does not know it or cannot reach it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


if __name__ == "__main__":
    run(main, "generate")
