"""Tokenizers built from GGUF metadata: text survives them, splits and merges follow the rules that the file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from quantizers.models.gguf_tokenizer import build_tokenizer


def byte_tokenizer(pre: str) -> Any:
    """Byte-level, no merges: every byte is a token, so that the splits alone decide nothing is lost."""
    letters = list(transformers.convert_slow_tokenizer.bytes_to_unicode().values())
    tokens = ["<|im_start|>", *letters, "1" * 2]
    return build_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
            "tokenizer.ggml.merges": ["1 1"],
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.chat_template": "{{ messages[0]['content'] }}",
        }
    )


def piece_tokenizer(prefix: bool) -> Any:
    """SentencePiece: bytes to fall back on, a few words, longer words with better scores."""
    words = ["\u2581", "a", "b", "ab", "\u2581a", "\u2581ab"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    return build_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words),
            "tokenizer.ggml.scores": [0.0] * 259 + [-9.0, -8.0, -7.0, -2.0, -3.0, -1.0],
            "tokenizer.ggml.add_space_prefix": prefix,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
        }
    )


TOKENIZERS = {
    **{pre: byte_tokenizer(pre) for pre in ("smollm", "llama-bpe", "qwen2", "gpt-2")},
    "pieces": piece_tokenizer(False),
    "prefixed pieces": piece_tokenizer(True),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from("aab  \n\t019.,'s\u00e9\u4e2d\U0001f600"), max_size=30))
def test_decoding_gives_the_text_back(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_digits_are_single_where_the_file_says_so() -> None:
    assert TOKENIZERS["smollm"].tokenize("1111") == ["1"] * 4
    assert TOKENIZERS["qwen2"].tokenize("1111") == ["1"] * 4
    assert TOKENIZERS["gpt-2"].tokenize("1111") == ["11", "11"]
    assert TOKENIZERS["llama-bpe"].tokenize("1111") == ["11", "1", "1"]


def test_pieces_merge_by_score_and_begin_with_bos() -> None:
    tokenizer = TOKENIZERS["pieces"]
    assert tokenizer.tokenize("ab aab") == ["ab", "\u2581a", "ab"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab\u00e9")["input_ids"]) == ["<s>", "ab", "<0xC3>", "<0xA9>"]


def test_a_tokenizer_is_saved_with_its_template(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["smollm"]
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>In 2024,  a1b22"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == text
    assert again.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_an_unknown_pre_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="'unheard-of' is not supported; supported: smollm"):
        byte_tokenizer("unheard-of")


def test_a_tokenizer_without_its_lists_is_named() -> None:
    with pytest.raises(ValueError, match=r"lacks tokenizer\.ggml\.scores"):
        build_tokenizer({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]})
    with pytest.raises(ValueError, match="'t5' is not supported; supported: gpt2, llama"):
        build_tokenizer({"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.scores": [0.0]})
