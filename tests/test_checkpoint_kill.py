"""kill -9 while a checkpoint is written: never half a checkpoint, and a second run ends in the same bytes.

Every attempt is a process of its own (a fork of a child that has imported torch already). Half of them are killed from
outside after a random time, which on a fast machine may come too late; half send themselves the same signal at a random
layer, so that a kill in the middle of the work is certain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_models import STATE_BITS, folder_hashes, logits, mixed, tiny

from quantizers.checkpoint import load_checkpoint, write_checkpoint
from quantizers.checkpoint.atomic_folder import atomic_folder

ATTEMPTS = 5  # of each kind

# argv: folder. Prints how many attempts of both kinds were killed before their end.
SCRIPT = f"""
import os, random, signal, sys, time, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)  # a fork does not inherit threads
from checkpoint_models import STATE_BITS, mixed, tiny
from quantizers.checkpoint import load_checkpoint, write_checkpoint

folder, rng = Path(sys.argv[1]), random.Random(0)

LAYERS = 14

def attempt(out, cache, last_layer=None):
    def stop(done, total, text):
        assert total == LAYERS
        if done == last_layer:
            os.kill(os.getpid(), signal.SIGKILL)

    model = tiny()
    plan = mixed(model, ("nuq-3", "int-4", "fp16", "nuq-2"))
    settings = dict(rotation_seed=0, state_bits=STATE_BITS, cache=cache, shard_bytes=30_000)
    write_checkpoint(out, model, plan, progress=stop, **settings)

def start(out, cache, last_layer=None):
    pid = os.fork()
    if pid == 0:
        try:
            attempt(out, cache, last_layer)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def ended(pid):
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("an attempt failed")
    return status

attempt(folder / "whole", folder / "cache of whole")
begin = time.perf_counter()
ended(start(folder / "timed", folder / "cache of timed"))
duration = time.perf_counter() - begin
killed = 0
for i in range({ATTEMPTS}):
    killed += os.WIFSIGNALED(ended(start(folder / "out", folder / "cache", rng.randint(1, LAYERS))))
    assert (folder / "out").exists() <= (i > 0), "a checkpoint from a killed first attempt"
    pid = start(folder / "out", folder / "cache")
    time.sleep(rng.uniform(0.05, 1.0) * duration)
    os.kill(pid, signal.SIGKILL)
    killed += os.WIFSIGNALED(ended(pid))
    if (folder / "out").exists():
        load_checkpoint(folder / "out")
ended(start(folder / "out", folder / "cache"))
print(killed)
"""


def test_random_kills_end_in_the_same_bytes(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root.parent)])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= ATTEMPTS, "an attempt went on past its kill"
    assert folder_hashes(tmp_path / "out") == folder_hashes(tmp_path / "whole") == folder_hashes(tmp_path / "timed")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"cache", "cache of timed", "cache of whole", "out", "timed", "whole"}


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_removed_and_a_living_one_kept(tmp_path: Path) -> None:
    dead = dead_pid()
    for name in (f"c.partial-{dead}", f"c.partial-{os.getppid()}", f"other.partial-{dead}", "c.partial-notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("content")
    with atomic_folder(tmp_path / "c", replaceable=lambda _: False, needed_bytes=0) as folder:
        (folder / "file").write_text("new")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"c", f"c.partial-{os.getppid()}", f"other.partial-{dead}", "c.partial-notes"}
    assert (tmp_path / "c/file").read_text() == "new"


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    dead = dead_pid()
    model = tiny()
    write_checkpoint(tmp_path / "c", model, mixed(model), rotation_seed=0, state_bits=STATE_BITS, cache=None)
    before = logits(load_checkpoint(tmp_path / "c"))
    (tmp_path / "c").rename(tmp_path / f"c.replaced-{dead}")
    with (
        pytest.raises(KeyboardInterrupt),
        atomic_folder(tmp_path / "c", replaceable=lambda _: True, needed_bytes=0),
    ):
        raise KeyboardInterrupt
    assert (logits(load_checkpoint(tmp_path / "c")) == before).all()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_an_interrupt_removes_the_unfinished_folder(tmp_path: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    model = tiny()
    settings = {"rotation_seed": 0, "state_bits": STATE_BITS, "cache": tmp_path / "cache"}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path / "c", model, mixed(model), progress=stop, **settings)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    report = write_checkpoint(tmp_path / "c", model, mixed(model), **settings)
    assert report.cached.tolist() == [True] * 3 + [False] * 11
