"""A policy's answers to origins, and the memory of those that a pattern lets in."""

from __future__ import annotations

import pytest

from budgateway.native import RequestHead
from budgateway.records import Cors
from budgateway.wire.cors import MAX_REMEMBERED, CrossOrigin, is_same_origin, origin_in


def test_origins_that_a_pattern_lets_in_are_remembered_within_bounds() -> None:
    policy = CrossOrigin(Cors(("https://*.a.example",)))
    for number in range(3 * MAX_REMEMBERED):
        origin = f"https://n{number}.a.example"
        assert policy.lines(origin).startswith(f"access-control-allow-origin: {origin}\r\nvary: origin\r\n".encode())
        assert policy.lines(f"https://n{number}.b.example") == b"vary: origin\r\n"
        assert len(policy._remembered) <= MAX_REMEMBERED


@pytest.mark.parametrize(
    ("data", "origin"),
    [
        (b"GET / HTTP/1.1\r\nOrigin: https://a\r\n\r\n", "https://a"),
        (b"GET / HTTP/1.1\nORIGIN:https://a \n", "https://a"),
        (b"GET / HTTP/1.1\r\norigin: https://a https://b\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nx-origin: https://a\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\norigin: https://a", None),
        (b"GET / HTTP/1.1\r\norigin: \xff\r\n\r\n", None),
        (b"", None),
    ],
)
def test_an_origin_is_found_where_no_head_could_be_read(data: bytes, origin: str | None) -> None:
    assert origin_in(data) == origin


@pytest.mark.parametrize(
    ("host", "origin", "is_same"),
    [
        ("a.example", "https://a.example", True),
        ("A.example:8443", "https://a.example:8443", True),
        ("a.example:8443", "https://a.example", False),
        ("a.example", "https://b.example", False),
        ("a.example", "null", False),
        ("a.example", "a.example", False),
    ],
)
def test_a_page_of_the_gateways_own_host(host: str, origin: str, is_same: bool) -> None:
    head = RequestHead.parse(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    assert head is not None
    assert is_same_origin(head, origin) is is_same
