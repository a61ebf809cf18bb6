"""Text and places: documents and windows against their definitions, paths of every form, errors that say what to do."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from quantizers.models import load_text, resolve_model, token_windows
from quantizers.models.location import resolve_file
from quantizers.models.text import SEPARATOR, pack, split_documents


class Letters:
    """A tokenizer of one token a character, code point + 10; begins a text with 1 where asked to."""

    bos_token_id: int | None
    eos_token_id = 2

    def __init__(self, start: tuple[int, ...] = (), end: tuple[int, ...] = ()) -> None:
        self.start, self.end = start, end
        self.bos_token_id = start[0] if start else None

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        ids = [ord(character) + 10 for character in text]
        return {"input_ids": [*self.start, *ids, *self.end] if add_special_tokens else ids}


DOCUMENTS = ("abcdefg", "hij", "klmnopqrstuvw")
STREAM = [ord(character) + 10 for document in DOCUMENTS for character in document + SEPARATOR]


@pytest.mark.parametrize(("window", "count"), [(2, 1), (5, 3), (29, 1), (7, 4)])
def test_windows_are_consecutive_pieces_of_the_token_stream(window: int, count: int) -> None:
    windows = token_windows(Letters(), DOCUMENTS, window=window, count=count)
    assert windows.dtype == torch.int64
    assert windows.tolist() == [STREAM[i * window : (i + 1) * window] for i in range(count)]


@pytest.mark.parametrize("end", [(), (2,)])
def test_every_window_begins_as_the_tokenizer_begins_a_text(end: tuple[int, ...]) -> None:
    windows = token_windows(Letters((1,), end), DOCUMENTS, window=6, count=4)
    assert windows.tolist() == [[1, *STREAM[i * 5 : (i + 1) * 5]] for i in range(4)]


def test_too_short_a_text_says_what_it_would_give() -> None:
    assert len(STREAM) == 29
    with pytest.raises(ValueError, match="3 documents give 2 windows of 10 tokens, 3 are needed"):
        token_windows(Letters(), DOCUMENTS, window=10, count=3)


@pytest.mark.parametrize(("window", "count"), [(1, 1), (4, 0), (0, 2)])
def test_windows_need_a_size(window: int, count: int) -> None:
    with pytest.raises(ValueError, match="accepted: window >= 2, count >= 1"):
        token_windows(Letters(), DOCUMENTS, window=window, count=count)


def test_windows_need_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="without a tokenizer"):
        token_windows(None, DOCUMENTS, window=4, count=1)


def test_documents_of_every_kind_of_file() -> None:
    wiki = '<doc id="1" url="u" title="A">\nA\n\nfirst <doc\n\n</doc>\n<doc id="2" title="B">\nB\n\nsecond\n</doc>\n'
    assert split_documents(wiki, 1) == ["A\n\nfirst <doc", "B\n\nsecond"]
    assert split_documents("one\n\nmore\n<|endoftext|>\ntwo\n<|endoftext|>", 1) == ["one\n\nmore", "two"]
    assert split_documents("one line\nanother\n", 1) == ["one line", "another"]
    assert split_documents("    code\n\nmore <doc code\n\nend", 9) == ["    code\n\nmore <doc code\n\nend"]


@pytest.mark.parametrize("characters", [1, 4, 9, 100])
def test_packing_loses_nothing(characters: int) -> None:
    paragraphs = ["abc", "de", "fghijk", "l", "mn"]
    pieces = pack(paragraphs, characters)
    assert SEPARATOR.join(pieces) == SEPARATOR.join(paragraphs)
    assert len(pieces) == 1 or all(len(piece) >= characters for piece in pieces)


def test_halves_share_no_document_and_keep_the_long_ones(tmp_path: Path) -> None:
    lines = [str(i) * (i % 4 * 5 + 1) for i in range(1, 10)]
    (tmp_path / "text").write_text("\n".join(lines))
    text = load_text(str(tmp_path / "text"), min_characters=10)
    long = [line for line in lines if len(line) >= 10]
    assert [*text.calibration, *text.evaluation] == long
    assert len(text.calibration) == len(long) // 2


def test_text_errors(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("a" * 50 + "\n" + "b" * 5)
    with pytest.raises(ValueError, match=r"text too short: .* holds 1 documents of at least 10 characters"):
        load_text(str(tmp_path / "short"), min_characters=10)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa" * 10)
    with pytest.raises(ValueError, match="is not UTF-8"):
        load_text(str(tmp_path / "binary"))
    with pytest.raises(FileNotFoundError, match="absent"):
        load_text(str(tmp_path / "absent"))


def test_hash_in_the_path(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"content")
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert resolve_model(f"{path}#sha256={sha256.upper()}") == path.resolve()
    with pytest.raises(ValueError, match=f"has sha256 {sha256}, expected 00"):
        resolve_model(f"{path}#sha256={'0' * 64}")
    with pytest.raises(ValueError, match="is a folder"):
        resolve_model(f"{tmp_path}#sha256={sha256}")


def test_a_package_is_found_but_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package_with_data"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "text").write_text("x")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_file("package:package_with_data/data/text") == (package / "data" / "text").resolve()
    assert "package_with_data" not in sys.modules
    with pytest.raises(FileNotFoundError, match="holds no file 'data/other'"):
        resolve_file("package:package_with_data/data/other")
    with pytest.raises(FileNotFoundError, match="'package_that_is_not' is not installed"):
        resolve_file("package:package_that_is_not/file")
    with pytest.raises(ValueError, match="not of the form"):
        resolve_file("package:package_with_data")


def test_parts_are_joined_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    parts = [tmp_path / f"model.gguf.part0{i}" for i in range(3)]
    for i, part in enumerate(parts):
        part.write_bytes(bytes([i]) * (i + 1))
    whole = b"\0\1\1\2\2\2"
    path = " + ".join(map(str, parts)) + f"#sha256={hashlib.sha256(whole).hexdigest()}"
    joined = resolve_model(path)
    assert joined.read_bytes() == whole
    assert joined.suffix == ".gguf"
    assert resolve_model(path) == joined
    assert len(list((tmp_path / "cache" / "bitpalette").iterdir())) == 1


def test_a_hub_model_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'nobody/nothing'.*download the model elsewhere"):
        resolve_model("nobody/nothing")


@pytest.mark.parametrize("path", ["", "absent/absent/absent", "absent.gguf", "./absent/model.gguf"])
def test_absent_models_say_what_is_accepted(path: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=r"accepted: a folder with config\.json"):
        resolve_model(path)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    from quantizers.models import load_model

    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors"):
        load_model(str(tmp_path))
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ValueError, match=r"neither a model folder nor a \.gguf file"):
        load_model(str(tmp_path / "model.bin"))
