"""The dialect of a request follows from its method and path, and is read with its head."""

from __future__ import annotations

from array import array

import pytest

from budgateway.kinds import KINDS
from budgateway.native import FACTS, HeadReader
from budgateway.providers.registry import ADAPTERS, adapters_of
from budgateway.records import Provider
from budgateway.wire.dialects import DIALECTS, NAMES, NONE, RULES, number_of


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/chat/completions", "openai.chat"),
        ("POST", "/team/v1/chat/completions?beta=true", "openai.chat"),
        ("POST", "/v1/completions", "openai.completions"),
        ("POST", "/v1/responses", "openai.responses"),
        ("POST", "/v1/messages?beta=true", "anthropic.messages"),
        ("POST", "/v1/messages/count_tokens", "anthropic.count"),
        ("POST", "/team/v1/messages", "anthropic.messages"),
        ("POST", "/v1/%6dessages", "anthropic.messages"),
        ("POST", "/team/v1/messages/count_tokens", "anthropic.count"),
        ("GET", "/v1/messages/batches", "anthropic.batches"),
        ("GET", "/v1/messages", "anthropic"),
        ("POST", "/v1/messagesx", ""),
        ("GET", "/v1/chat/completions", ""),
        ("GET", "/v1/responses", "openai.responses.others"),
        ("GET", "/v1/responses/resp_1", "openai.responses.stored"),
        ("POST", "/v1/embeddings", ""),
        ("POST", "/", ""),
    ],
)
def test_a_request_has_the_dialect_of_its_method_and_path(method: str, path: str, name: str) -> None:
    facts = array("q", bytes(8 * FACTS))
    reader = HeadReader(facts, (), RULES)
    head = reader.request(f"{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert head is not None
    assert facts[3] == reader.dialect(head) == number_of(name)


def test_names_are_told_apart() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(DIALECTS)
    assert NAMES[NONE] == ""
    with pytest.raises(ValueError, match="tuple"):
        number_of("esperanto")


def test_kinds_speak_dialects_that_exist() -> None:
    known = {*NAMES, *(spoken for _, spoken in ADAPTERS)} - {""}
    for kind in KINDS.values():
        assert set(kind.dialects) <= known, kind.name


@pytest.mark.parametrize("kind", KINDS)
def test_without_adapters_every_dialect_passes(kind: str) -> None:
    adapters = adapters_of(Provider(name="p", kind=kind, upstreams=()), KINDS[kind])
    assert len(adapters) == len(NAMES)
    if not ADAPTERS:
        assert len(set(adapters)) == 1
