"""The test files that run code which is compiled in one flavour and interpreted in the other: found in their imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


@cache
def reaches_compiled(path: Path) -> bool:
    """Return True when a test file imports a compiled module or starts a gateway, itself, in a conftest or through what
    they import."""
    seen = set[Path]()
    waiting = [
        path,
        *(folder / "conftest.py" for folder in path.parents if folder.is_relative_to(TESTS) and folder != TESTS),
    ]
    while waiting:
        file = waiting.pop()
        if file.name.endswith("_cy.py"):
            return True
        if file not in seen and file.is_file():
            seen.add(file)
            waiting.extend(_imported(file))
    return False


@cache
def _imported(file: Path) -> frozenset[Path]:
    """Return the files of this checkout that a file imports anywhere; of a test, also what it runs by its name
    (`python -m budgateway`, `both_flavours(...)`)."""
    reader = _Names(file.is_relative_to(TESTS))
    reader.visit(ast.parse(file.read_text()))
    return frozenset(found for name in reader.names for found in _files(name))


class _Names(ast.NodeVisitor):
    """The dotted names that a module uses when it runs: not those for type checkers."""

    def __init__(self, is_test: bool) -> None:
        self.names = set[str]()
        self._is_test = is_test

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.names.update(f"{node.module}.{alias.name}" for alias in node.names)

    def visit_Constant(self, node: ast.Constant) -> None:
        if self._is_test and isinstance(node.value, str) and node.value.startswith("budgateway"):
            self.names.add(f"{node.value}.__main__" if node.value.isidentifier() else node.value)


def _files(name: str) -> Iterator[Path]:
    """Return the files behind a dotted name: the module, and the packages on the way to it."""
    parts = name.split(".")
    for root in (ROOT, TESTS):
        for length in range(1, len(parts) + 1):
            place = root.joinpath(*parts[:length])
            for file in (place.with_name(place.name + ".py"), place / "__init__.py"):
                if file.is_file():
                    yield file
