"""Docstrings begin with a verb or a noun: those that begin with a question word are counted, and nearly none is allowed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("budgateway", "native", "benchmarks", "tests")
OUTPUT = {"target", ".venv", ".venv-pure", "build", "node_modules"}
HEADLESS = re.compile(r"(What|Who|Whom|Whether|Where|Whose|How|Which|Why|When)\b")
HEADLESS_MAX = 9
_DOC_COMMENT = re.compile(r"\s*//[/!](?!/) ?(.*)")
_DOC_ATTRIBUTE = re.compile(r'\s*#!?\[doc\s*=\s*"(.*)')


def python_docstrings(source: str) -> Iterator[tuple[int, str]]:
    """The docstrings of a module, its classes, functions and fields, each with its line."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value.strip()


def rust_docstrings(source: str) -> Iterator[tuple[int, str]]:
    """The doc comments and doc attributes of a Rust file, each by its first line."""
    inside = False
    for number, line in enumerate(source.splitlines(), 1):
        if found := _DOC_ATTRIBUTE.match(line):
            yield number, found[1].strip()
        found = _DOC_COMMENT.match(line)
        if found and not inside:
            yield number, found[1].strip()
        inside = found is not None


def headless(path: Path) -> list[str]:
    """The docstrings of a file that begin with a question word."""
    read = rust_docstrings if path.suffix == ".rs" else python_docstrings
    return [
        f"{path.relative_to(ROOT)}:{line}: {text.partition(chr(10))[0]}"
        for line, text in read(path.read_text())
        if HEADLESS.match(text)
    ]


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if not OUTPUT & set(path.parts)]
    found = [line for path in sorted(paths) if path.suffix in {".py", ".pyi", ".rs"} for line in headless(path)]
    assert [line for line in found if line.startswith("budgateway/")] == []
    assert len(found) <= HEADLESS_MAX, found


@pytest.mark.parametrize(
    "source",
    [
        '"""Who asks."""',
        'class A:\n    """How."""',
        'async def f():\n    """Whether it is."""',
        'class A:\n    field: int\n    """Where it is."""',
    ],
)
def test_a_question_word_is_found_in_python(source: str) -> None:
    assert [bool(HEADLESS.match(text)) for _, text in python_docstrings(source)] == [True]


def test_question_words_are_found_in_rust() -> None:
    source = (
        '//! What.\n\n/// How it is.\n/// Which goes on.\nfn f() {}\n#[doc = "Why."]\nmod m;\n//// Who: no comment.\n'
    )
    assert [line for line, text in rust_docstrings(source) if HEADLESS.match(text)] == [1, 3, 6]


def test_other_words_pass() -> None:
    assert not HEADLESS.match("Howitzer") and not HEADLESS.match("Return what was read.")
