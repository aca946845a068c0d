"""The reader of heads: the numbers it leaves behind, and what is written in one piece."""

from __future__ import annotations

from array import array
from time import monotonic_ns

import pytest

from budgateway import _native
from budgateway.errors import BadRequest
from budgateway.native import (
    FACTS,
    JSON,
    HeadReader,
    RequestHead,
    RequestHeadWriter,
    RequestIds,
    ResponseHead,
    ResponseHeadWriter,
)

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nx-request-id: mine\r\ncontent-length: 2\r\n\r\n{}"
RESPONSE = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def test_facts_are_what_the_head_says() -> None:
    facts = array("q", bytes(8 * FACTS))
    reader = HeadReader(facts)
    head = reader.request(REQUEST)
    assert head is not None
    assert list(facts[:4]) == [head.size, head.flags, head.content_length, 0] == [len(REQUEST) - 2, head.flags, 2, 0]
    assert head.flags & _native.NAMED
    assert head.flags & JSON
    assert not head.flags & _native.TIMED
    answer = reader.response(RESPONSE, False)
    assert answer is not None
    assert list(facts[:4]) == [answer.size, answer.flags, 2, 201]


def test_facts_say_when_a_head_was_read() -> None:
    facts = array("q", bytes(8 * FACTS))
    reader = HeadReader(facts)
    times = [monotonic_ns()]
    for read in (lambda: reader.request(REQUEST), lambda: reader.response(RESPONSE, False)):
        assert read() is not None
        times += [facts[4], monotonic_ns()]
    assert times == sorted(times)


def test_a_request_that_says_how_long_it_is_worth_waiting_is_flagged() -> None:
    head = HeadReader(array("q", bytes(8 * FACTS))).request(REQUEST.replace(b"x-request-id", b"X-Request-Timeout"))
    assert head is not None
    assert head.flags & _native.TIMED
    assert head.header("x-request-timeout") == "mine"


def test_facts_stay_when_there_is_no_head() -> None:
    facts = array("q", range(FACTS))
    reader = HeadReader(facts)
    assert reader.request(REQUEST[:20]) is None
    assert reader.response(RESPONSE[:20], False) is None
    with pytest.raises(BadRequest):
        reader.request(b"GET /\r\n\r\n")
    assert list(facts) == list(range(FACTS))


@pytest.mark.parametrize(
    "cells",
    [
        array("q", [0]),
        array("b", bytes(8 * FACTS)),
        bytes(8 * FACTS),
        memoryview(array("q", bytes(8 * FACTS))).toreadonly(),
        memoryview(array("q", bytes(16 * FACTS)))[::2],
    ],
)
def test_other_cells_are_refused(cells: array[int]) -> None:
    with pytest.raises((ValueError, BufferError)):
        HeadReader(cells)


def test_a_request_leaves_in_one_piece() -> None:
    head = RequestHead.parse(REQUEST)
    assert head is not None
    writer = RequestHeadWriter("up:1", "", "", [], [])
    assert writer.write_whole(head, "id", b"[1]") == writer.write(head, "id", 3) + b"[1]"
    assert writer.write_whole(head, "id", b"") == writer.write(head, "id", 0)


@pytest.mark.parametrize("behind", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_a_response_leaves_in_one_piece(behind: bytes) -> None:
    head = ResponseHead.parse(RESPONSE + behind)
    assert head is not None
    assert head.body() == b"{}"
    writer = ResponseHeadWriter()
    assert writer.write_whole(head, True, "id", b"", 0, 0) == writer.write(head, 2, True, "id", b"", 0, 0) + b"{}"


@pytest.mark.parametrize(
    "raw",
    [
        RESPONSE[:-1],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nx",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1\r\n\r\nx",
    ],
)
def test_what_is_not_whole_has_no_body(raw: bytes) -> None:
    head = ResponseHead.parse(raw)
    assert head is not None
    assert head.body() is None
    with pytest.raises(ValueError, match="no whole body"):
        ResponseHeadWriter().write_whole(head, True, "id", b"", 0, 0)


def test_request_ids_count_on() -> None:
    ids = RequestIds("a-")
    assert [ids.take(), ids.take()] == ["a-00000001", "a-00000002"]
    for prefix in ("", "x" * 49, "a b"):
        with pytest.raises(ValueError, match="begin request ids"):
            RequestIds(prefix)


@pytest.mark.parametrize(
    ("body", "length", "is_doubtful"),
    [
        (b'{"error":{}}', 12, True),
        (b"", 0, True),
        (b'{"error', 7, False),
        (b"{}", 2, False),
        (b'{"error":{}', 12, False),
    ],
)
def test_a_whole_body_that_may_be_no_answer_is_flagged(body: bytes, length: int, is_doubtful: bool) -> None:
    facts = array("q", bytes(8 * FACTS))
    reader = HeadReader(facts, (b'{"object":"error"', b'{"error":{'))
    head = reader.response(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (length, body), False)
    assert head is not None
    assert bool(facts[1] & _native.DOUBTFUL) is is_doubtful
    assert facts[1] & ~_native.DOUBTFUL == head.flags
