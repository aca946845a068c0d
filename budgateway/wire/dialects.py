"""Dialects: the API shapes that clients and model servers speak. The one list of their names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect, and the requests that clients make in it."""

    name: str  # "API.operation"
    path: str = ""  # may begin or end with `*`
    method: str = "POST"  # "": any
    family: str = "openai"  # whose shape its errors have
    usage_option: bool = False  # streams report usage when `stream_options` requests it


# By `x.dialect`. The first that matches a request's method and path counts; requests that match none have number 0.
DIALECTS = (
    Dialect(""),
    Dialect("openai.chat", "*/v1/chat/completions", usage_option=True),
    Dialect("openai.completions", "*/v1/completions", usage_option=True),
    Dialect("openai.responses", "*/v1/responses"),
    Dialect("anthropic.messages", "/v1/messages", family="anthropic"),
    Dialect("anthropic.count", "/v1/messages/count_tokens", family="anthropic"),
    # The rest of that API: it is passed on, and only errors of the gateway have its shape.
    Dialect("anthropic", "/v1/messages*", method="", family="anthropic"),
)

NAMES = tuple(dialect.name for dialect in DIALECTS)
RULES = [(dialect.method, dialect.path) for dialect in DIALECTS[1:]]
NONE = 0


def number_of(name: str) -> int:
    """Return a dialect's number, which is `x.dialect` of its requests. Raises ValueError for an unknown name."""
    return NAMES.index(name)
