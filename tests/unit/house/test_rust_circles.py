"""A search for circles among the modules of each Rust crate.

A node is a file, and an edge leads to the file that defines the name: `mod` declarations and re-exports (`pub use`) are
no edges of a parent, and a name that comes through a re-export belongs to the file behind it. A parent whose own code
uses a re-exported name or a child does depend on it. Code for tests does not count, and calls of methods do not show:
an edge is a path in the text.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[3]
CRATES = ["native/core/src", "native/src"]

Module = tuple[str, ...]

# Comments, raw strings, strings and characters. A lifetime has no closing quote.
OPAQUE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\bb?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^\\'\n])'""", re.DOTALL
)
TEST_ONLY = re.compile(r"#\[cfg\(test\)\]")
INLINE = re.compile(r"\bmod\s+\w+\s*\{")
DECLARED = re.compile(r"\bmod\s+\w+\s*;")
RESTRICTED = re.compile(r"\bpub\s*\(\s*(?:crate|self|super|in\b[^)]*)\s*\)")
USE = re.compile(r"\b(pub\s+)?use\s+([^;]+);")
PATH = re.compile(r"(?<![\w:.])\$?(\w+(?:\s*::\s*\w+)+)")
TOKEN = re.compile(r"\w+|::|[{},]")


class Use(NamedTuple):
    """One name that a `use` binds, with its absolute path inside the crate."""

    name: str
    path: Module
    is_public: bool


def block_end(source: str, start: int) -> int:
    """Return the position after the item that begins at `start`: after its block, or its semicolon."""
    depth = 0
    for match in re.compile(r"[{};]").finditer(source, start):
        depth += {"{": 1, "}": -1, ";": 0}[match[0]]
        if depth <= 0:
            return match.end()
    return len(source)


def shipped(source: str) -> str:
    """Source text without comments, literals, items for tests, `mod` declarations and the scopes of visibility."""
    source = RESTRICTED.sub("pub", OPAQUE.sub(" ", source))
    while match := TEST_ONLY.search(source):
        source = source[: match.start()] + source[block_end(source, match.end()) :]
    return DECLARED.sub(" ", source)


def leaves(tree: str) -> list[tuple[list[str], str]]:
    """The paths of a `use` with the names they bind: `a::{self, b::C as D}` has (a, a) and (a::b::C, D)."""
    found: list[tuple[list[str], str]] = []
    stack: list[list[str]] = [[]]
    path: list[str] = []
    name = ""
    tokens = TOKEN.findall(tree)
    for before, token in pairwise(["", *tokens, ","]):
        if token == "{":
            stack.append(list(path))
        elif token in {",", "}"}:
            if path != stack[-1]:
                found.append((path, name or path[-1]))
            if token == "}":
                stack.pop()
            path, name = list(stack[-1]), ""
        elif before == "as":
            name = token
        elif token == "self" and path:
            found.append((path, path[-1]))
        elif token not in {"::", "as"}:
            path = [*path, token]
    return found


class Crate:
    """The modules of one crate, with what each binds and uses."""

    def __init__(self, root: Path) -> None:
        self.sources: dict[Module, str] = {}
        for path in sorted(root.rglob("*.rs")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] != "tests" and not parts[-1].endswith("_tests"):
                module = parts[:-1] if parts[-1] == "mod" or parts == ("lib",) else parts
                self.sources[module] = shipped(path.read_text())
        self.uses = {module: self.uses_of(module) for module in self.sources}

    def absolute(self, module: Module, path: list[str], depth: int) -> Module | None:
        """Return a path from the crate's root; None for another crate's. `depth` counts the inline modules around it."""
        base = module
        if path[0] == "crate":
            return tuple(path[1:])
        if path[0] in {"self", "super"}:
            while path and path[0] in {"self", "super"}:
                if path[0] == "super":
                    base, depth = (base, depth - 1) if depth else (base[:-1], 0)
                path = path[1:]
            return (*base, *path)
        return (*base, *path) if (*base, path[0]) in self.sources else None

    def depth(self, source: str, position: int) -> int:
        """The number of inline modules around a position."""
        return sum(match.start() < position < block_end(source, match.start()) for match in INLINE.finditer(source))

    def uses_of(self, module: Module) -> list[Use]:
        """Every name from this crate that a module's `use` lines bind."""
        source = self.sources[module]
        found = []
        for match in USE.finditer(source):
            depth = self.depth(source, match.start())
            for path, name in leaves(match[2]):
                absolute = self.absolute(module, path, depth)
                if absolute is not None:
                    found.append(Use(name, absolute, bool(match[1])))
        return found

    def owner(self, path: Module, seen: frozenset[Module] = frozenset()) -> Module:
        """The module that defines the first item of a path, behind every re-export."""
        module: Module = ()
        for index, name in enumerate(path):
            if (*module, name) in self.sources:
                module = (*module, name)
                continue
            through = [use.path for use in self.uses.get(module, []) if use.name == name]
            if through and path not in seen:
                return self.owner((*through[0], *path[index + 1 :]), seen | {path})
            break
        return module

    def dependencies(self, module: Module) -> set[Module]:
        """The modules whose items a module's own code uses."""
        source = self.sources[module]
        code = USE.sub(" ", source)
        words = set(re.findall(r"\w+", code))
        found = {use.path for use in self.uses[module] if not use.is_public or use.name in words}
        for match in PATH.finditer(source):
            if not any(use.start() <= match.start() < use.end() for use in USE.finditer(source)):
                path = self.absolute(module, re.findall(r"\w+", match[1]), self.depth(source, match.start()))
                if path is not None:
                    found.add(path)
        return {self.owner(path) for path in found} - {module}

    def graph(self) -> dict[str, set[str]]:
        """The modules that each module depends on, by their names."""
        return {
            "::".join(("crate", *module)): {"::".join(("crate", *other)) for other in self.dependencies(module)}
            for module in self.sources
        }


GRAPHS = {crate: Crate(ROOT / crate).graph() for crate in CRATES}


@pytest.mark.parametrize("crate", CRATES)
def test_there_are_no_circles(crate: str) -> None:
    TopologicalSorter(GRAPHS[crate]).prepare()


@pytest.mark.parametrize(
    ("crate", "module", "others"),
    [
        # A name through two re-exports, a qualified path in the code, a renamed name and a child's macro.
        ("native/core/src", "queue", {"segment", "segment::layout", "segment::layout::queues"}),
        ("native/core/src", "limit::error", {"segment"}),
        ("native/core/src", "limit::lease", {"segment", "segment::layout", "segment::layout::limits"}),
        ("native/core/src", "sse::usage", {"sse::object"}),
        ("native/core/src", "limit", set()),
        ("native/src", "engine::sockets::set", {"engine::sockets::interceptor"}),
    ],
)
def test_the_graph_is_whole(crate: str, module: str, others: set[str]) -> None:
    assert GRAPHS[crate][f"crate::{module}"] == {f"crate::{other}" for other in others}


FIRST = "pub(crate) struct First;\npub(crate) fn other() { crate::second::later(); }\n"


@pytest.mark.parametrize(
    "files",
    [
        {"first.rs": "use crate::second::Second;\n", "second.rs": "use super::first::First;\n"},
        {"first.rs": "use crate::{third, second::{self, Second as S}};\n", "second.rs": "use crate::first::*;\n"},
        {"first.rs": FIRST, "second.rs": "pub fn later() { let _ = crate::first::First; }\n"},
        {"first.rs": FIRST, "second.rs": "mod inner { use super::super::first::First; }\n"},
        {"first.rs": FIRST, "second.rs": "macro_rules! m { () => { $crate::first::First } }\n"},
        # Two children that meet through what their parent re-exports.
        {
            "room/mod.rs": "mod first;\nmod second;\npub use first::First;\npub(crate) use second::Second;\n",
            "room/first.rs": "use super::Second;\npub struct First;\n",
            "room/second.rs": "use crate::room::First;\npub struct Second;\n",
        },
        # A child that uses its parent, whose own code uses the child.
        {
            "room.rs": "mod child;\npub use child::Child;\npub struct Room(Child);\n",
            "room/child.rs": "use super::Room;\npub struct Child;\n",
        },
        {
            "room.rs": "mod child;\npub struct Room(child::Child);\n",
            "room/child.rs": "pub struct Child;\nimpl super::Room {}\n",
        },
    ],
)
def test_a_circle_is_found(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    with pytest.raises(CycleError, match="crate::"):
        TopologicalSorter(Crate(tmp_path).graph()).prepare()


@pytest.mark.parametrize(
    "files",
    [
        # A parent that only declares and re-exports.
        {
            "room/mod.rs": "mod first;\nmod second;\npub use first::First;\npub use second::Second;\npub enum E {}\n",
            "room/first.rs": "use super::E;\npub struct First;\n",
            "room/second.rs": "use super::{E, First};\npub struct Second;\n",
        },
        # Code for tests, comments and texts.
        {
            "first.rs": "use crate::second::Second;\n",
            "second.rs": "#[cfg(test)]\nmod tests {\n    use super::*;\n    use crate::first::First;\n}\n",
        },
        {
            "first.rs": "use crate::second::Second;\n",
            "second.rs": '// use crate::first::First;\nconst TEXT: &str = "use crate::first::First;";\n',
            "second/tests.rs": "use crate::first::First;\n",
        },
        # The visibility of an item.
        {"room.rs": "mod child;\npub struct Room(child::C);\n", "room/child.rs": "pub(in crate::room) struct C;\n"},
        # Other crates and enums.
        {
            "first.rs": "use std::second;\nuse crate::second::Kind;\n",
            "second.rs": "enum Kind { First }\nfn f() { first::x() }\n",
        },
    ],
)
def test_what_is_no_circle_is_left_alone(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    TopologicalSorter(Crate(tmp_path).graph()).prepare()


def test_a_use_binds_the_names_of_its_leaves() -> None:
    assert leaves("a::{self, b::{C as D, e}, f::*}") == [
        (["a"], "a"),
        (["a", "b", "C"], "D"),
        (["a", "b", "e"], "e"),
        (["a", "f"], "f"),
    ]


def write(root: Path, files: dict[str, str]) -> None:
    """Write the files of a crate."""
    for name, text in {"lib.rs": "", **files}.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
