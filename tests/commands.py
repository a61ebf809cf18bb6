"""Commands of experiments/ as a user runs them: in a process of their own, or here, where torch is already there.

A process takes 3 to 7 s of CPU for its imports. One test of a command shows that it starts; the others need only what
its `__main__` does with the arguments."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent


def in_a_process(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m experiments.NAME ARGUMENTS`."""
    command = [sys.executable, "-m", f"experiments.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def here(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What that does, in this process."""
    code, output, errors = 0, io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [name, *arguments]),
        redirect_stdout(output),
        redirect_stderr(errors),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=r".*found in sys\.modules", category=RuntimeWarning)
        try:
            runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess([name, *arguments], code, output.getvalue(), errors.getvalue())
