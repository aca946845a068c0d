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
    typed_events: bool = False  # events of its streams have a `type`, errors too


# By `x.dialect`. The first that matches a request's method and path counts; requests that match none have number 0.
DIALECTS = (
    Dialect(""),
    Dialect("openai.chat", "*/v1/chat/completions", usage_option=True),
    Dialect("openai.completions", "*/v1/completions", usage_option=True),
    Dialect("openai.responses", "*/v1/responses", typed_events=True),
    Dialect("anthropic.messages", "*/v1/messages", family="anthropic"),
    Dialect("anthropic.count", "*/v1/messages/count_tokens", family="anthropic"),
    Dialect("gemini.generate", "*/v1beta/models/*"),
    # The rest of these APIs: it is passed on, and only errors of the gateway have their shape.
    Dialect("anthropic", "*/v1/messages", method="", family="anthropic"),
    Dialect("anthropic.batches", "*/v1/messages/*", method="", family="anthropic"),
    Dialect("openai.responses.others", "*/v1/responses", method="", typed_events=True),
    Dialect("openai.responses.stored", "*/v1/responses/*", method="", typed_events=True),
)

NAMES = tuple(dialect.name for dialect in DIALECTS)
RULES = [(dialect.method, dialect.path) for dialect in DIALECTS[1:]]
NONE = 0


def number_of(name: str) -> int:
    """Return a dialect's number, which is `x.dialect` of its requests. Raises ValueError for an unknown name."""
    return NAMES.index(name)
