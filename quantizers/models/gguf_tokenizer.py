r"""The tokenizer inside a GGUF file: a `tokenizers` BPE built straight from the metadata.

Two models exist. `gpt2` (byte-level BPE): the file holds the merges, and names the rule that splits the text before
BPE (`tokenizer.ggml.pre`), which is not in the file: `PRE_TOKENIZERS` writes the rules out [llama.cpp,
src/llama-vocab.cpp]. `llama` (SentencePiece BPE with byte fallback): the file holds scores instead of merges; a merge
is every split of a token into two tokens, in the order of the merged token's score [Kudo, arXiv 1808.06226].
Both decode to the text that was encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPACE = "\u2581"  # SentencePiece's mark of a space
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # token types of GGUF
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def by_regex(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def single_digits() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


# tokenizer.ggml.pre -> the split before BPE; byte-level GPT-2 where a file names the default
PRE_TOKENIZERS: Mapping[str, Any] = {
    "smollm": single_digits,
    "llama-bpe": lambda: by_regex(LLAMA3),
    "llama3": lambda: by_regex(LLAMA3),
    "qwen2": lambda: by_regex(QWEN2),
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "default": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
}


def build_tokenizer(settings: Mapping[str, Any]) -> Any | None:
    """A `PreTrainedTokenizerFast` from a GGUF file's settings; None where the file has no tokenizer."""
    from transformers import PreTrainedTokenizerFast

    def value(key: str, default: Any = None) -> Any:
        return settings.get(f"tokenizer.ggml.{key}", default)

    kind = value("model")
    if kind is None:
        return None
    lists = ("tokens", "merges") if kind == "gpt2" else ("tokens", "scores")
    if lacking := [key for key in lists if value(key) is None]:
        raise ValueError(f"the GGUF file lacks tokenizer.ggml.{lacking[0]}")
    tokens, types = value("tokens"), value("token_type")
    types = types or [NORMAL] * len(tokens)
    if kind == "gpt2":
        backend = byte_level(tokens, value("merges"), str(value("pre", "default")))
    elif kind == "llama":
        backend = sentence_piece(tokens, value("scores"), types, prefix=bool(value("add_space_prefix", True)))
    else:
        raise ValueError(f"GGUF tokenizer model {kind!r} is not supported; supported: gpt2, llama")
    # user-defined tokens may hold SentencePiece's mark, which stands for a space of the text
    controls = [
        AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types, strict=True) if k == CONTROL
    ]
    words = [t for t, k in zip(tokens, types, strict=True) if k == USER_DEFINED and SPACE not in t]
    backend.add_special_tokens(controls)
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in words])
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: value(f"{key}_token_id") for name, key in keys.items()}
    special = {name: tokens[index] for name, index in ids.items() if index is not None}
    if value("add_bos_token", kind == "llama") and "bos_token" in special:
        bos = special["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, ids["bos_token"])]
        )
    if template := settings.get("tokenizer.chat_template"):
        special["chat_template"] = template
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def byte_level(tokens: Sequence[str], merges: Sequence[str], pre: str) -> Tokenizer:
    if pre not in PRE_TOKENIZERS:
        raise ValueError(f"GGUF pre-tokenizer {pre!r} is not supported; supported: {', '.join(PRE_TOKENIZERS)}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ", 1) for merge in merges)]
    # llama-bpe takes a word that is a token as it is, whatever its merges give [llama.cpp, ignore_merges]
    backend = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=pre in ("llama-bpe", "llama3")))
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    return backend


def sentence_piece(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], *, prefix: bool) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    plain = {token for token, kind in zip(tokens, types, strict=True) if kind in (NORMAL, USER_DEFINED)}
    merges = merges_by_score(vocabulary, plain, scores)
    unknown = "<unk>" if "<unk>" in vocabulary else None
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(content=" ", left=1)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def merges_by_score(vocabulary: Mapping[str, int], plain: set[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All (left, right) whose joint token exists, best score of the joint token first, then by the ids of the two."""
    found: list[tuple[float, int, int, str, str]] = []
    for token in plain:
        score = -scores[vocabulary[token]]
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in plain and right in plain:
                found.append((score, vocabulary[left], vocabulary[right], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]
