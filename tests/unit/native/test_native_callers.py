"""Every method and number of the native core has a user in the package, or is on a short list with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[3] / "budgateway"

# Names that only tests and benchmarks read.
PROBES = {
    "BodyPeek.max_tokens": "what the limits' decision reads natively",
    "FastPath.served": "proof that the fast path served an exchange",
    **dict.fromkeys(
        (
            "Metrics.overheads",
            "Metrics.refusals",
            "Metrics.times",
            "Times.first_byte",
            "Times.first_token",
            "Times.per_token",
            "DURATION_BOUNDS_S",
            "FIRST_BOUNDS_S",
            "OVERHEAD_BOUNDS_S",
            "PER_TOKEN_BOUNDS_S",
            "TOKEN_BOUNDS",
        ),
        "what the natively rendered text must say",
    ),
}


def members() -> Iterator[str]:
    """The names in the stub: `Class.method`, functions and numbers."""
    for node in ast.parse((PACKAGE / "_native.pyi").read_text()).body:
        if isinstance(node, ast.ClassDef):
            methods = (one.name for one in node.body if isinstance(one, ast.FunctionDef))
            yield from (f"{node.name}.{method}" for method in methods if not method.startswith("__"))
        elif isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)


def used() -> set[str]:
    """The attributes and names that the package reads. A number may be written again under a private or the same name
    (`tests/unit/native/test_native_numbers.py`)."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        found |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if path.name != "native.py":
            numbers = (node.id.removeprefix("_") for node in nodes if isinstance(node, ast.Name))
            found |= {name for name in numbers if name.isupper()}
    return found


def test_every_native_name_has_a_user() -> None:
    names = used()
    unused = {name for name in members() if name.rpartition(".")[2] not in names}
    outcomes = {name for name in unused if name.startswith("OUTCOME_") and name.removeprefix("OUTCOME_") in names}
    assert unused - outcomes == set(PROBES)
