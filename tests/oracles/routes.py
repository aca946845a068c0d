"""Routing the slow way: try every rule, keep the ones that match, sort them by the documented order."""

from __future__ import annotations

import re
from collections.abc import Sequence

Rule = tuple[str, str, Sequence[str], Sequence[str], Sequence[tuple[str, str]], int]


def find(
    rules: Sequence[Rule], method: str, path: str, host: str, model: str | None, headers: Sequence[tuple[str, str]]
) -> int:
    """Return the result that `RouteTable.lookup` must give."""
    found: list[tuple[object, int]] = []
    failure = -1
    for index, rule in enumerate(rules):
        host_pattern, path_pattern, methods, models, wanted, priority = rule
        if not host_matches(host_pattern, host) or not path_matches(path_pattern, path):
            continue
        if methods and method not in methods:
            failure = min(failure, -2)
            continue
        failure = -3
        matching = [pattern for pattern in models if model is not None and glob(pattern, model)]
        if models and not matching:
            continue
        if not all(any(glob(value, have) for other, have in headers[:] if other == name) for name, value in wanted):
            continue
        model_rank = min((model_preference(pattern) for pattern in matching), default=(3, 0))
        found.append(
            (
                (
                    -priority,
                    host_preference(host_pattern),
                    path_preference(path_pattern),
                    not methods,
                    model_rank,
                    -len(wanted),
                ),
                index,
            )
        )
    return min(found)[1] if found else failure


def host_matches(pattern: str, host: str) -> bool:
    return (
        not pattern
        or pattern == host
        or (pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:])
    )


def path_matches(pattern: str, path: str) -> bool:
    if not pattern:
        return True
    parts = [
        "[^/]+" if part == "{x}" else ".*" if part in ("*", "{x:path}") else re.escape(part)
        for part in pattern.split("/")
    ]
    return re.fullmatch("/".join(parts), path) is not None


def glob(pattern: str, text: str) -> bool:
    parts = [".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern]
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def host_preference(pattern: str) -> tuple[int, int]:
    return (2, 0) if not pattern else (1, -len(pattern)) if pattern.startswith("*") else (0, 0)


def path_preference(pattern: str) -> list[int]:
    if not pattern:
        return [3]
    return [1 if part == "{x}" else 2 if part in ("*", "{x:path}") else 0 for part in pattern.split("/")[1:]]


def model_preference(pattern: str) -> tuple[int, int]:
    stars = [char for char in pattern if char in "*?"]
    if not stars:
        return 0, 0
    literals = len(pattern) - len(stars)
    return (1, -literals) if stars == ["*"] and pattern.endswith("*") and literals else (2, -literals)
