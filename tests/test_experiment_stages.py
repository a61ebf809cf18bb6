"""Stages: work is repeated exactly when what it reads has changed or what it wrote is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.stages import Stages, file_hash


def test_a_stage_runs_once_and_again_after_every_kind_of_change(tmp_path: Path) -> None:
    source, result = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("a")
    calls: list[str] = []

    def work() -> None:
        calls.append(source.read_text())
        result.write_text(source.read_text().upper())

    def go(setting: int) -> bool:
        return Stages(tmp_path).run("copy", work, settings=setting, reads=[source], writes=[result])

    assert go(1)
    assert not go(1)
    assert go(2), "a changed setting"
    source.write_text("b")
    assert go(2), "a changed input file"
    assert result.read_text() == "B"
    result.unlink()
    assert go(2), "a lost output"
    assert calls == ["a", "a", "b", "b"]


def test_a_stage_that_fails_is_not_recorded(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Stages(tmp_path).run("write", fail, settings=None)
    ran: list[int] = []
    assert Stages(tmp_path).run("write", lambda: ran.append(1), settings=None)
    assert ran == [1]


def test_seconds_of_kept_stages_are_those_of_the_run_that_did_them(tmp_path: Path) -> None:
    Stages(tmp_path).run("one", lambda: None, settings=0)
    second = Stages(tmp_path)
    second.run("one", lambda: None, settings=0)
    assert second.skipped == ["one"]
    assert set(second.seconds) == {"one"}


def test_file_hash_sees_contents_and_absence(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    assert file_hash(first) == file_hash(second)
    second.write_bytes(b"other")
    assert len({file_hash(first), file_hash(second), file_hash(tmp_path / "absent")}) == 3


def test_runs_share_a_result_until_it_is_damaged(tmp_path: Path) -> None:
    ran: list[str] = []

    def go(name: str) -> bool:
        folder = tmp_path / name
        result = folder / "out.csv"

        def work() -> None:
            ran.append(name)
            folder.mkdir(exist_ok=True)
            result.write_text("measured")

        stages = Stages(folder, cache=tmp_path / "cache")
        did = stages.run("measure", work, settings=1, writes=[result], share=True)
        assert result.read_text() == "measured"
        return did

    assert go("a")
    assert not go("b")
    assert not go("b"), "and now it is the run's own"
    (kept,) = (tmp_path / "cache").glob("*/out.csv")
    kept.write_text("damaged")
    assert go("c")
    assert ran == ["a", "c"]
