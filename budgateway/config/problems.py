"""Problems of a configuration: all of them, each with its file and key path, worded for the operator."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from budgateway.config.source import KeyPath

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

# pydantic's error types, with the expected value in TOML's terms.
EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "finite_number": "a finite number",
}
BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


class Problems:
    """Collects problems. A key path is shown with its source: a file, a variable or an option."""

    def __init__(self, sources: Mapping[KeyPath, str], variables: Mapping[KeyPath, str]) -> None:
        self.lines: list[str] = []
        self._sources = sources  # path of a table -> its file
        self._variables = variables  # path of a value -> the variable or option that set it
        self._noted: set[KeyPath] = set()

    def add(self, path: KeyPath, message: str) -> None:
        """Note a problem of the value at `path`. Only the first one per path is kept, because later ones follow from
        it."""
        if path not in self._noted:
            self._noted.add(path)
            self.lines.append(f"{self.place(path)}: {message}")

    def within(self, path: KeyPath) -> bool:
        """Return whether a problem of the value at `path`, or of a part of it, is noted."""
        return any(noted[: len(path)] == path for noted in self._noted)

    def place(self, path: KeyPath) -> str:
        """Return a value's place: `routes.toml: routes[2].provider`, or `environment: GATEWAY_PORT`."""
        for length in range(len(path), 0, -1):
            if (variable := self._variables.get(path[:length])) is not None:
                return variable
        for length in range(len(path), -1, -1):
            if (source := self._sources.get(path[:length])) is not None:
                return f"{source}: {spelled(path)}" if path else source
        return spelled(path)

    def add_invalid(self, path: KeyPath, model: type[BaseModel], error: ValidationError) -> list[KeyPath]:
        """Note pydantic's errors about the table at `path`; return their key paths inside it."""
        wrong: list[KeyPath] = []
        for detail in error.errors(include_url=False):
            loc: KeyPath = detail["loc"]
            kind = detail["type"]
            if kind != "extra_forbidden" and loc[1:] and loc[-1] == "[key]":
                loc = loc[:-1]  # pydantic's way to report that the key itself is wrong
            if kind == "extra_forbidden":
                # The known keys are those of the unknown key's parent.
                self.add(path + loc, f"unknown key{did_you_mean(str(loc[-1]), known_keys(model, loc[:-1]))}")
            else:
                self.add(path + loc, worded(kind, detail.get("ctx", {}), detail["input"], detail["msg"]))
            wrong.append(loc)
        return wrong


def without(value: object, paths: Iterable[KeyPath]) -> object:
    """Return a copy of a table without the values at some paths, for the checks against other tables."""
    inner: dict[str | int, list[KeyPath]] = {}
    for path in paths:
        if path:
            inner.setdefault(path[0], []).append(path[1:])
    if isinstance(value, dict):
        return {key: without(item, inner.get(key, ())) for key, item in value.items() if () not in inner.get(key, ())}
    if isinstance(value, list):
        return [
            without(item, inner.get(index, ())) for index, item in enumerate(value) if () not in inner.get(index, ())
        ]
    return value


def worded(kind: str, ctx: Mapping[str, Any], value: object, message: str) -> str:
    """Return one of pydantic's errors in our words. Never called with a secret: their validators do not show the
    value."""
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind in BOUNDS:
        key, words = BOUNDS[kind]
        return f"must be {words} {ctx[key]:g}, got {shown(value)}" if key in ctx else message
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in str(ctx["expected"]).replace(" or ", ", ").split(", ")]
        suggestion = did_you_mean(value, choices) if isinstance(value, str) else ""
        return f"must be one of {', '.join(choices)}; got {shown(value)}{suggestion}"
    if kind in EXPECTED:
        return f"must be {EXPECTED[kind]}, got {shown(value)}"
    return message[:1].lower() + message[1:]


def is_text(value: str) -> bool:
    """Return whether a variable's value is UTF-8 text: Python marks other bytes of the environment by surrogates, which
    nothing can be written with."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """Return a value for a message, shortened. What may be a credential in a URL is masked."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    try:
        text = repr(value)
    except ValueError:  # an int beyond sys.get_int_max_str_digits
        return "a number far too large"
    # Before shortening, which could remove the `@` that marks a credential.
    text = re.sub(r"[^\s'\"]+@", "***@", text)
    return text if len(text) <= 60 else text[:57] + "..."


def spelled(path: KeyPath) -> str:
    """Return a key path as it is written: `providers.vllm.endpoints[0].url`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part.replace("-", "").replace("_", "").isalnum() and part.isascii()
            text += ("." if text else "") + (part if bare else shown(part))
    return text


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a suggestion to append to a message; empty when no known word is similar."""
    near = nearest(word.lower(), known, cutoff)
    return f"; did you mean {near!r}?" if near else ""


def nearest(word: str, known: Iterable[str], cutoff: float) -> str:
    """Return the known word most similar to this one; empty when none is."""
    near = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=cutoff)
    return near[0] if near else ""


def known_keys(model: type[BaseModel], loc: KeyPath) -> list[str]:
    """Return the keys of the table at `loc` inside `model`."""
    current: type[BaseModel] = model
    for part in loc:
        if isinstance(part, int) or part not in current.model_fields:
            continue
        inner = _table_within(current.model_fields[part].annotation)
        if inner is None:
            return []
        current = inner
    return list(current.model_fields)


def _table_within(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel  # the supervisor imports this module, but never gets here

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _table_within(argument)) is not None:
            return found
    return None
