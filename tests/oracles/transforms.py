"""Transformation rules on dictionaries: obvious and slow."""

from __future__ import annotations

from typing import Any

Operation = tuple[Any, ...]


def steps_of(path: str) -> list[str]:
    """The names on a path."""
    if not path.startswith("/"):
        return [path]
    return [token.replace("~1", "/").replace("~0", "~") for token in path[1:].split("/")]


def is_index(step: str) -> bool:
    """True for what RFC 6901 calls an array index."""
    return step.isascii() and step.isdigit() and (step == "0" or not step.startswith("0"))


def container_of(document: Any, steps: list[str], creates: bool) -> Any:
    """The container of a path's last step; None when there is none."""
    for at, step in enumerate(steps[:-1]):
        if isinstance(document, dict):
            are_names = not any(is_index(further) or further == "-" for further in steps[at + 1 :])
            if step not in document and creates and are_names:
                document[step] = {}
            if step not in document:
                return None
            document = document[step]
        elif isinstance(document, list):
            if not is_index(step) or int(step) >= len(document):
                return None
            document = document[int(step)]
        else:
            return None
    return document if isinstance(document, (dict, list)) else None


MISSING = object()


def value_at(document: Any, path: str) -> Any:
    """The value at a path, or MISSING."""
    steps = steps_of(path)
    container = container_of(document, steps, False)
    if isinstance(container, dict):
        return container.get(steps[-1], MISSING)
    if isinstance(container, list) and is_index(steps[-1]) and int(steps[-1]) < len(container):
        return container[int(steps[-1])]
    return MISSING


def put(document: Any, path: str, value: Any) -> None:
    """Set the value at a path."""
    steps = steps_of(path)
    container = container_of(document, steps, True)
    if isinstance(container, dict):
        container[steps[-1]] = value
    elif isinstance(container, list):
        if steps[-1] == "-":
            container.append(value)
        elif is_index(steps[-1]) and int(steps[-1]) < len(container):
            container[int(steps[-1])] = value


def remove(document: Any, path: str) -> None:
    """Remove the value at a path."""
    steps = steps_of(path)
    container = container_of(document, steps, False)
    if isinstance(container, dict):
        container.pop(steps[-1], None)
    elif isinstance(container, list) and is_index(steps[-1]) and int(steps[-1]) < len(container):
        del container[int(steps[-1])]


def rename(document: Any, path: str, to: str) -> None:
    """Rename the member at a path; one of the new name stays."""
    steps = steps_of(path)
    container = container_of(document, steps, False)
    if not isinstance(container, dict) or steps[-1] not in container or steps[-1] == to:
        return
    if to in container:
        del container[steps[-1]]
        return
    members = list(container.items())
    container.clear()
    container.update((to if name == steps[-1] else name, value) for name, value in members)


def is_number(value: Any) -> bool:
    """True for JSON numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def holds(document: Any, kind: str, path: str, values: list[Any]) -> bool:
    """True when a condition holds."""
    value = value_at(document, path)
    is_there = value is not MISSING and value is not None
    if kind == "present":
        return is_there
    if kind == "absent":
        return not is_there
    if kind == "in":
        return any((type(value) is type(one) and value == one) or (is_number(value) and is_number(one) and value == one)
                   for one in values)  # fmt: skip
    if not is_number(value):
        return False
    return bool(value > values[0] if kind == "above" else value < values[0])


def apply(document: Any, operation: Operation, values: list[str | None]) -> None:
    """Apply one operation; `values` are the exchange's."""
    kind, path, *words = operation
    if kind == "remove":
        remove(document, path)
    elif kind == "rename":
        rename(document, path, words[0])
    elif kind == "set":
        put(document, path, words[0])
    elif kind == "default":
        if value_at(document, path) in (MISSING, None):
            put(document, path, words[0])
    elif kind == "set_from":
        value = values[words[0]]
        if value is None:
            remove(document, path)
        else:
            put(document, path, value)
    elif kind == "cap":
        value = value_at(document, path)
        if value is MISSING or value is None:
            if words[1] is not None:
                put(document, path, words[1])
        elif is_number(value) and value > words[0]:
            put(document, path, words[0])
