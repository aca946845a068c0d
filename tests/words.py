"""The retired words and a search for them: `python -m tests.words [WORD ...]` prints every occurrence with its line."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("budgateway", "native", "docs", "benchmarks", "tests")
SUFFIXES = {".py", ".pyi", ".pxd", ".rs", ".lua", ".md"}
OUTPUT = {"target", ".venv", ".venv-pure", "build", "node_modules"}
# The table itself and its test name what they search for.
EXEMPT = {"tests/words.py", "tests/unit/house/test_words.py"}

# Each retired word and the standard term that replaces it. A compound is written in snake_case and also found in CamelCase.
RETIRED = {
    "across": "global limits",
    "back_office": "admin server, admin endpoints",
    "backend": "upstream",
    "bell": "wakeup fd",
    "calm": "spread above",
    "card": "instance file",
    "carrier": "exchange handler",
    "claim": "reservation (of shared limits)",
    "courier": "attempt, upstream request",
    "custodian": "credential refresher",
    "desk": "admin server",
    "door": "server state",
    "entrust": "update",
    "express": "fast path",
    "fleet": "worker pool",
    "journey": "fast exchange",
    "keybook": "API keys",
    "leg": "destination",
    "node": "upstream",
    "office": "admin server, admin endpoints",
    "patience": "request timeout",
    "precedent": "cached plan",
    "rival": "other (attempt of a hedge)",
    "route_room": "compiled route",
    "sharing": "shared limits wiring",
    "spare": "fork server",
    "spoke_ns": "last byte",
    "stray": "unrouted",
    "to_head": "is head",
    "told_flags": "response flags",
    "told_length": "declared length",
    "trust": "credentials",
    "vault": "credential store",
    "voice": "log once",
    "vouch": "principal header",
    "vouched": "principal header",
}
# Words with an ordinary meaning, which prose may use: retired as names only (identifiers, modules, `code` in prose).
ORDINARY = {
    *("across", "backend", "bell", "calm", "card", "claim", "desk", "door", "fleet", "leg", "node", "office"),
    *("patience", "rival", "sharing", "spare", "stray", "trust", "vault", "voice"),
}
# Words that are plain English or the standard term elsewhere (a token's claims, Redis nodes): retired in these folders only.
_OURS = ("budgateway/", "native/", "docs/")
WITHIN = {
    "across": ("budgateway/", "docs/", "tests/"),
    "backend": _OURS,
    "calm": _OURS,
    "claim": ("budgateway/limits/",),
    "node": tuple(f"budgateway/{room}/" for room in ("balance", "exchange", "health", "providers", "proxy", "routing")),
    "patience": _OURS,
    "spare": ("budgateway/process/", "budgateway/app/", "docs/", "tests/unit/"),
    "stray": ("budgateway/", "docs/", "tests/unit/"),
}
# Configuration keys, metrics, headers, error codes and other projects' names are not ours to rename.
PUBLIC = {"spare_worker", "SPARE_WORKER", "office"}  # office: a key of the instance file

_NAME = re.compile(r"[^\W\d]\w*")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_CODE = re.compile(r"`+([^`]+)`+")
_FILE = re.compile(r"\b\w+\.(?:py|pyi|pxd|rs|lua|md)\b")
_RUST_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A retired word at a line of a file (line 0: in the file's path)."""

    word: str
    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word} (-> {RETIRED[self.word]}): {self.text.strip()[:120]}"


@dataclass(frozen=True, slots=True)
class Piece:
    """Text at a line: code (every name counts) or prose."""

    line: int
    text: str
    is_code: bool


def occurrences() -> list[Occurrence]:
    """Every occurrence in the tree, in the order of paths and lines."""
    return [found for path in sources() for found in search(path.relative_to(ROOT).as_posix(), path.read_text())]


def sources() -> list[Path]:
    """The files that are searched."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES)
    return sorted(
        path
        for path in found
        if not OUTPUT & set(path.parts) and path.relative_to(ROOT).as_posix() not in EXEMPT and path.is_file()
    )


def search(path: str, source: str) -> Iterator[Occurrence]:
    """The occurrences in one file: its path, its names, its comments, docstrings and messages."""
    for word in sorted(_retired_names(path.rpartition(".")[0].replace("test_", ""), path)):
        yield Occurrence(word, path, 0, path)
    lines = source.splitlines()
    seen = set()
    for piece in _pieces(path, source):
        words = _retired_names(piece.text, path) if piece.is_code else _retired_in_prose(piece.text, path)
        for word in sorted(words):
            if (word, piece.line) not in seen:
                seen.add((word, piece.line))
                yield Occurrence(word, path, piece.line, lines[piece.line - 1] if piece.line <= len(lines) else "")


def parts(name: str) -> tuple[str, ...]:
    """The words of an identifier, in lower case: `HTTPServer_fast` is http, server, fast."""
    return tuple(part.lower() for part in _PART.findall(name))


def _retired_names(text: str, path: str) -> set[str]:
    """The retired words among the identifiers of `text`."""
    found = {word for name in _NAME.findall(text) for word in _retired_in(name)}
    return {word for word in found if path.startswith(WITHIN.get(word, ""))}


@cache
def _retired_in(name: str) -> frozenset[str]:
    """The retired words in one identifier. A test's name is a sentence: ordinary words may be used in it."""
    if name in PUBLIC:
        return frozenset()
    words = parts(name)
    found = frozenset(word for word in RETIRED if _holds(words, tuple(word.split("_"))))
    return found - ORDINARY if name.startswith("test_") else found


def _holds(words: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """True when `wanted`, or its plural, is a part of `words`."""
    size = len(wanted)
    plurals = {wanted[-1], wanted[-1] + "s", wanted[-1] + "es"}
    return any(
        words[at : at + size - 1] == wanted[:-1] and words[at + size - 1] in plurals
        for at in range(len(words) - size + 1)
    )


def _retired_in_prose(text: str, path: str) -> set[str]:
    """The retired words in prose; ordinary ones only where the text names code."""
    found = {word for word in _retired_names(text, path) if word not in ORDINARY}
    if re.search(r"\bback[ -]office", text, re.IGNORECASE):
        found.add("back_office")
    names = [name for name in _NAME.findall(text) if "_" in name or re.search(r"[a-z][A-Z]", name)]
    code = [*_CODE.findall(text), *_FILE.findall(text), *names]
    return found | {word for piece in code for word in _retired_names(piece, path)}


def _pieces(path: str, source: str) -> Iterator[Piece]:
    match path.rpartition(".")[2]:
        case "py" | "pyi":
            yield from _python(source, messages=path.startswith("budgateway/"))
        case "pxd":
            yield from _by_line(source, "#")
        case "lua":
            yield from _by_line(source, "--")
        case "rs":
            yield from _by_line(source, "//")
        case _:
            yield from (Piece(number, line, False) for number, line in enumerate(source.splitlines(), 1))


def _python(source: str, *, messages: bool) -> Iterator[Piece]:
    """Names and comments by tokens; docstrings, strings that are a name and (if `messages`) other text by the tree."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in {tokenize.NAME, tokenize.COMMENT}:
            yield Piece(token.start[0], token.string, token.type == tokenize.NAME)
    tree = ast.parse(source)
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if node.value.isidentifier() and ("_" in node.value or re.search(r"[a-z][A-Z]", node.value)):
            yield Piece(node.lineno, node.value, True)
        elif id(node) in docstrings or (messages and " " in node.value):
            for number, line in enumerate(node.value.split("\n"), node.lineno):
                yield Piece(number, line, False)


def _by_line(source: str, comment: str) -> Iterator[Piece]:
    """Code and comments of a language read line by line; of its strings, text with a space is prose."""
    for number, line in enumerate(source.splitlines(), 1):
        texts = _RUST_STRING.findall(line)
        code, _, prose = _RUST_STRING.sub('""', line).partition(comment)
        yield Piece(number, code, True)
        yield Piece(number, prose, False)
        yield from (Piece(number, text, False) for text in texts if " " in text)


def main(wanted: list[str]) -> int:
    """Print the occurrences (of these words), then how many there are of each; 1 when there are any."""
    found = [one for one in occurrences() if not wanted or one.word in wanted]
    for one in found:
        print(one)
    for word, term in RETIRED.items():
        if count := sum(one.word == word for one in found):
            print(f"{count:5} {word} -> {term}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
