"""The one way an experiment starts: Hydra composes the config, a bad input is one line on stderr and exit code 2.

Hydra must not create a run folder (a failing command writes nothing), so the primary configs set `hydra.run.dir=.`,
`hydra.output_subdir=null` and switch file logging off; the config goes beside the artifact instead (`save_run`)."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).resolve().parent.parent / "conf"
PACKAGES = ("torch", "transformers", "numba", "numpy", "pulp", "highspy", "cvxpy")


def run(main: Callable[[DictConfig], None], config_name: str) -> None:
    """Compose `conf/<config_name>.yaml` with the command line and call `main`; bad input: one message, exit 2."""

    def task(cfg: DictConfig) -> None:
        try:
            main(cfg)
        except (ValueError, OSError, LookupError, OmegaConfBaseException, ImportError) as error:
            sys.stdout.flush()
            print(f"error: {describe(error)}", file=sys.stderr)
            raise SystemExit(2) from None

    try:
        hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")(task)()
    except SystemExit as stop:  # Hydra itself exits with 1 on a bad override
        raise SystemExit(2 if stop.code == 1 else stop.code) from None


def describe(error: BaseException) -> str:
    """One line: the message, or the type where there is none."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def environment() -> dict[str, Any]:
    """Versions and machine, to stand beside every artifact."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def save_run(folder: Path, cfg: DictConfig, **results: Any) -> None:
    """Write `run.json`: the command, its composed config, the environment, and what the experiment adds."""
    content = {
        "command": ["python", "-m", *sys.argv],
        "config": OmegaConf.to_container(cfg, resolve=True),
        "environment": environment(),
        **results,
    }
    temporary = folder / "run.json.partial"
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
    temporary.replace(folder / "run.json")
