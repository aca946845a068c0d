"""The house rules that a machine can hold: lengths, names, plates on doors, one version."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# A file near 400 lines asks whether it is two things. None is cut to fit a number: this bound only stops what nobody reads.
LINES_MAX = 1200
# The stub of one module is one file.
LINES_MAX_OF_STUB = 1600
NAMES_BANNED = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}
OUTPUT = {"target", ".venv", ".venv-pure", "build", "node_modules"}


def sources(*suffixes: str) -> list[Path]:
    """Our source files with one of these suffixes, relative to the checkout."""
    folders = ("budgateway", "native", "tests", "benchmarks")
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    return sorted(path.relative_to(ROOT) for path in found if not OUTPUT & set(path.parts))


def plate(source: str) -> str:
    """The first line of a module's docstring; empty when it has none that begins on the first line."""
    text = ast.get_docstring(ast.parse(source), clean=False) or ""
    return text.partition("\n")[0].strip()


def test_no_file_is_beyond_reading() -> None:
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in sources(".py", ".pyi", ".pxd", ".rs")}
    stub = lengths.pop("budgateway/_native.pyi")
    assert {path: lines for path, lines in lengths.items() if lines > LINES_MAX} == {}
    assert stub <= LINES_MAX_OF_STUB


def test_no_module_is_named_after_what_it_is_not() -> None:
    banned = [
        str(path)
        for path in sources(".py", ".rs")
        if NAMES_BANNED & {part.removesuffix(path.suffix) for part in path.parts}
    ]
    assert banned == []


@pytest.mark.parametrize("path", sources(".py"), ids=str)
def test_a_module_opens_with_one_line_that_says_what_it_is(path: Path) -> None:
    assert re.search(r"[.?!:`)\]]$", plate((ROOT / path).read_text())), "no docstring, or its first line is no sentence"


@pytest.mark.parametrize("path", sources(".rs"), ids=str)
def test_a_rust_module_opens_with_its_plate(path: Path) -> None:
    first = (ROOT / path).read_text().partition("\n")[0]
    assert first.startswith(("//! ", "#!["))


@pytest.mark.parametrize(("source", "line"), [("import os", ""), ('"""\nLate."""', ""), ('"""What."""\n', "What.")])
def test_a_plate_is_read_from_the_first_line(source: str, line: str) -> None:
    assert plate(source) == line


def test_pyproject_holds_the_only_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    assert importlib.metadata.version("budgateway") == project["version"], "stale install: run `make dev`"
    assert cargo["version"] == "0.0.0"
    assert project["version"] not in "".join(p.read_text() for p in (ROOT / "budgateway").rglob("*.py"))
