"""Text for calibration and evaluation: documents of a file, split in halves, and windows of their tokens.

Documents are found by the marks that plain corpora use: Wikipedia extracts wrap them in `<doc ...>` lines, story
collections separate them by `<|endoftext|>`, web crawls hold one a line. Source code and prose without any mark is cut
at blank lines into pieces of `min_characters`. Calibration and evaluation never share a document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantizers.models.location import resolve_file

WIKIPEDIA = re.compile(r"<doc [^>\n]*>\n(.*?)\n?</doc>", re.DOTALL)
END_OF_TEXT = "<|endoftext|>"
SEPARATOR = "\n\n"  # between the documents of a window


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSplit:
    """Documents of the first half of a corpus (to calibrate on) and of the second (to evaluate on)."""

    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]


def load_text(path: str, *, min_characters: int = 1000) -> TextSplit:
    """Documents of at least `min_characters` from a UTF-8 file (`path` as in `location`), halved in file order.

    ValueError if fewer than two are left, or the file is not UTF-8."""
    found = resolve_file(path)
    try:
        text = found.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{found} is not UTF-8 text: {error}") from error
    documents = [d for d in split_documents(text, min_characters) if len(d) >= min_characters]
    if len(documents) < 2:
        raise ValueError(
            f"text too short: {found} holds {len(documents)} documents of at least {min_characters} characters, "
            "two are needed (one to calibrate on, one to evaluate on)"
        )
    half = len(documents) // 2
    return TextSplit(calibration=tuple(documents[:half]), evaluation=tuple(documents[half:]))


def split_documents(text: str, piece_characters: int) -> list[str]:
    """All documents, stripped; `piece_characters` is the least length of a piece where the text has no marks."""
    # one file of source code holds `<doc` as part of its code: a corpus begins with its mark
    if text.startswith("<doc "):
        parts = WIKIPEDIA.findall(text)
    elif END_OF_TEXT in text:
        parts = text.split(END_OF_TEXT)
    elif SEPARATOR in text:
        parts = pack(re.split(r"\n\s*\n", text), piece_characters)
    else:
        parts = text.split("\n")
    return [stripped for part in parts if (stripped := part.strip("\n"))]


def pack(paragraphs: Sequence[str], characters: int) -> list[str]:
    """Neighbouring paragraphs joined until a piece has at least `characters`; a shorter rest joins the last piece."""
    pieces: list[str] = []
    current: list[str] = []
    for paragraph in paragraphs:
        current.append(paragraph)
        if sum(map(len, current)) >= characters:
            pieces.append(SEPARATOR.join(current))
            current = []
    if current:
        rest = SEPARATOR.join(current)
        pieces = [*pieces[:-1], SEPARATOR.join([pieces[-1], rest])] if pieces else [rest]
    return pieces


def token_windows(tokenizer: Any, documents: Sequence[str], *, window: int, count: int) -> torch.Tensor:
    """(count, window) int64: consecutive windows over the documents' tokens, joined by an empty line.

    A tokenizer that begins every text with a token (Gemma, Llama) begins every window with it. Only as many documents
    are encoded as are needed. ValueError if the text is too short, says what it would give."""
    if tokenizer is None:
        raise ValueError("the model came without a tokenizer, which text needs: put tokenizer.json into its folder")
    if window < 2 or count < 1:
        raise ValueError(f"window is {window}, count is {count}; accepted: window >= 2, count >= 1")
    start = tokenizer("", add_special_tokens=True)["input_ids"]
    if start and start[-1] == tokenizer.eos_token_id and start[-1] != tokenizer.bos_token_id:
        start = start[:-1]
    body = window - len(start)
    tokens: list[int] = []
    for document in documents:
        tokens += tokenizer(document + SEPARATOR, add_special_tokens=False, verbose=False)["input_ids"]
        if len(tokens) >= body * count:
            break
    else:
        raise ValueError(
            f"text too short: {len(documents)} documents give {len(tokens) // body} windows of {window} tokens, "
            f"{count} are needed; give more text, a shorter window or fewer windows"
        )
    rows = [start + tokens[i * body : (i + 1) * body] for i in range(count)]
    return torch.tensor(rows, dtype=torch.int64)
