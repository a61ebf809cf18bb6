"""The layout of the house: which folders hold code, and that imports point one way."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("alloc", "quantizers", "experiments", "analysis")
FOLDERS = {*CODE, "cuda", "conf", "tests", "docs"}
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}
PURE_ALLOC = {"torch", "transformers", "quantizers", "experiments", "analysis", "safetensors"}
# package -> top-level modules that it must not import
FORBIDDEN = {
    "alloc": {"experiments", "analysis"},
    "quantizers": {"experiments", "analysis", "alloc", "pulp", "cvxpy", "hydra"},
    "analysis": {"experiments", "quantizers", "torch", "transformers"},
}


def sources() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Top-level names that a file imports, at any depth of its body."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def test_only_the_named_folders_hold_code() -> None:
    tops = {
        p.relative_to(ROOT).parts[0] for p in ROOT.glob("*/**/*.py") if not p.relative_to(ROOT).parts[0].startswith(".")
    }
    assert tops <= {*CODE, "tests", "build"}, tops
    for name in FOLDERS:
        assert (ROOT / name).is_dir(), f"{name}/ is missing"


def test_cuda_holds_no_python_and_tests_no_package() -> None:
    assert not list((ROOT / "cuda").rglob("*.py"))
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not list((ROOT / "conf").rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_short_idea(path: Path) -> None:
    assert path.stem not in VAGUE, "the name says nothing"
    assert len(path.read_text().splitlines()) <= 300
    module = ast.parse(path.read_text())
    assert ast.get_docstring(module), "a file opens with what it is"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    names = set(imported(path))
    relative = path.relative_to(ROOT)
    crossing = names & FORBIDDEN.get(relative.parts[0], set())
    assert not crossing, f"{relative} imports {sorted(crossing)}"
    if relative.parts[0] == "alloc" and relative.parts[1] != "sensitivity":
        assert not names & PURE_ALLOC, f"{relative} is pure mathematics but imports {sorted(names & PURE_ALLOC)}"


def test_every_package_is_shipped() -> None:
    shipped = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {".".join(p.relative_to(ROOT).parts[:-1]) for p in sources()}
    folders |= {".".join(p.relative_to(ROOT).parts[:-1]) for p in (ROOT / "conf").rglob("*.yaml")}
    assert folders <= shipped, f"not in [tool.setuptools] packages: {sorted(folders - shipped)}"


def test_named_packages_are_used() -> None:
    used = {name for path in sources() for name in imported(path)}
    named = {"cvxpy", "pulp", "numpy", "torch", "pandas", "matplotlib", "hydra", "numba"}
    assert named <= used, f"named by the user but unused: {sorted(named - used)}"
