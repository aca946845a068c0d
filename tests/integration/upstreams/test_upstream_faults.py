"""An upstream misbehaves: the client gets the right answer or one honest error, and nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from downstream import Answer, Downstream
from integration.gateways import gateway
from integration.processes import Server
from ports import free_port
from upstreams import faults
from upstreams.faulty import Answer as Script
from upstreams.faulty import FaultyUpstream
from upstreams.wire import chunked, head

pytestmark = [pytest.mark.integration]

CHAT = "/v1/chat/completions"
BODY = b'{"model":"demo","messages":[]}'
JSON = [("Content-Type", "application/json")]
GOOD = faults.chat_bytes("all is well")
EVENTS = faults.chat_events("one", "two", "three")
STREAM = faults.stream_bytes(EVENTS)
BORDER = STREAM.index(EVENTS[1]) + len(EVENTS[1])  # an event is whole, the next has not begun


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(port: int) -> Iterator[Server]:
    """A gateway with short deadlines; what stands behind it changes from test to test."""
    route = {"timeout": 0.5, "chunk_timeout": 0.5}
    with gateway(f"http://127.0.0.1:{port}", route=route, provider={"health_check_interval": 3600.0}) as server:
        yield server


@pytest.fixture
async def upstream(server: Server, port: int) -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat(), port=port) as upstream:
        yield upstream


async def ask(server: Server, *, path: str = CHAT) -> Answer:
    async with Downstream(server.url) as client:
        return await client.ask("POST", path, BODY, JSON)


async def well(server: Server, upstream: FaultyUpstream) -> None:
    """The gateway still works, and what it answers belongs to the question."""
    upstream.script(faults.chat("all is well"))
    answer = await ask(server)
    assert answer.json()["choices"][0]["message"]["content"] == "all is well"


# ---------------------------------------------------------------- before the first byte


async def test_nobody_listens(server: Server) -> None:
    answer = await ask(server)
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_connect")


@pytest.mark.parametrize(
    "fault",
    [
        faults.garbage(),
        faults.garbage(b"\x16\x03\x01\x02\x00"),
        faults.cut(GOOD, 0),
        faults.cut(GOOD, 0, reset=True),
        faults.cut(GOOD, 5),
        faults.cut(GOOD, GOOD.index(b"\r\n\r\n") + 2),
        faults.header_bomb(),
        faults.header_bomb(count=1, size=40_000),
        faults.endless_head(),
        faults.raw(head(200, [("content-length", "+1")]) + b"x"),
        faults.raw(head(200, [("content-length", "1"), ("content-length", "2")]) + b"xx"),
        faults.raw(head(200, [("content-length", "1"), ("transfer-encoding", "chunked")]) + b"x"),
        faults.raw(head(200, [("transfer-encoding", "chunked, chunked")]) + chunked([b"x"])),
        faults.raw(head(200, [("transfer-encoding", "gzip")]) + b"x", then_close=True),
        faults.raw(head(101, [("upgrade", "other"), ("connection", "upgrade")]) + b"tunnel"),
        faults.raw(b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
        faults.raw(b"HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n"),
        faults.raw(b"HTTP/1.1 200 OK\ncontent-length: 0\n\n", then_close=True),
    ],
    ids=[
        "not HTTP", "TLS", "FIN", "RST", "cut status line", "cut head", "many headers", "huge header", "endless head",
        "signed length", "two lengths", "length and chunks", "chunked twice", "unknown coding", "101 unasked", "HTTP/2.0",
        "status 99", "bare LF",
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_502(server: Server, upstream: FaultyUpstream, fault: Script) -> None:
    upstream.script(fault)
    answer = await ask(server)
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_protocol")
    assert answer.is_complete
    await well(server, upstream)


@pytest.mark.parametrize("fault", [faults.silent(), faults.stall(GOOD, 10)], ids=["silent", "half a status line"])
async def test_a_slow_head_is_504_and_the_upstream_is_let_go(
    server: Server, upstream: FaultyUpstream, fault: Script
) -> None:
    upstream.script(fault)
    answer = await ask(server)
    assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    await upstream.until(lambda up: up.open_connections == 0)
    await well(server, upstream)


async def test_interim_answers_are_not_the_answer(server: Server, upstream: FaultyUpstream) -> None:
    upstream.script(faults.informational(100, 102, 103, then=GOOD, headers=[("link", "</x>")]))
    async with Downstream(server.url) as client:
        answer = await client.ask("POST", CHAT, BODY, JSON)
    assert answer.status == 200
    assert not client.informational
    assert answer.header("link") is None


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
async def test_an_upstreams_error_comes_through_whole(server: Server, upstream: FaultyUpstream, status: int) -> None:
    upstream.script(faults.status(status, retry_after="9"))
    answer = await ask(server)
    assert answer.status == status
    assert answer.json()["error"]["message"] == f"answered {status}"
    assert answer.header("retry-after") == "9"


# ---------------------------------------------------------------- in the body


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("at", [GOOD.index(b"\r\n\r\n") + 4, len(GOOD) - 1], ids=["no body", "a byte missing"])
async def test_a_cut_body_never_looks_whole(server: Server, upstream: FaultyUpstream, at: int, reset: bool) -> None:
    upstream.script(faults.cut(GOOD, at, reset=reset))
    answer = await ask(server)
    assert not answer.is_complete or answer.status == 502
    await well(server, upstream)


def cuts() -> list[int]:
    """Places in the stream: behind the head, inside an event, at an event's end, inside a chunk's frame, before the last chunk."""
    start = STREAM.index(b"\r\n\r\n") + 4
    return [
        start,
        STREAM.index(b"two"),
        STREAM.index(b"two") - 40,
        STREAM.index(b"[DONE]"),
        len(STREAM) - 5,
        len(STREAM) - 1,
    ]


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("at", cuts())
async def test_a_cut_stream_never_looks_whole(server: Server, upstream: FaultyUpstream, at: int, reset: bool) -> None:
    upstream.script(faults.cut(STREAM, at, reset=reset))
    answer = await ask(server)
    assert not answer.is_complete or answer.status == 502
    if answer.status == 200:
        told = STREAM[STREAM.index(b"\r\n\r\n") + 4 : at]
        assert answer.body.count(b"[DONE]") <= told.count(b"[DONE]\n\n")
    await well(server, upstream)


@pytest.mark.parametrize(
    "fault",
    [
        faults.stall(STREAM, BORDER + 3),
        faults.half_close(STREAM, BORDER),
        faults.stall(STREAM, BORDER),
        faults.bad_chunk(),
        faults.bad_chunk(size_line=b"\n"),
        faults.bad_chunk(size_line=b"-1\r\n"),
        faults.bad_chunk(size_line=b"ffffffffffffffffff\r\n"),
        faults.bad_chunk(size_line=b"5 \r\n"),
        faults.bad_chunk(size_line=b"5;" + b"x" * 20_000 + b"\r\n"),
    ],
    ids=[
        "stalled in a chunk's frame",
        "half-closed",
        "stalled",
        "letters",
        "bare LF",
        "negative",
        "too large",
        "space",
        "long extension",
    ],
)
async def test_a_stream_that_breaks_ends_with_an_error_event(
    server: Server, upstream: FaultyUpstream, fault: Script
) -> None:
    upstream.script(fault)
    answer = await ask(server)
    assert answer.status == 200
    assert not answer.is_complete
    assert b"[DONE]" not in answer.body
    assert answer.body.startswith(EVENTS[0])
    *_, last, rest = bytes(answer.body).split(b"\n\n")
    assert rest == b""
    assert b'"error"' in last
    await upstream.until(lambda up: up.open_connections == 0)
    await well(server, upstream)


@pytest.mark.parametrize("ended", ["stalled", "half-closed", "cut"])
@pytest.mark.parametrize("at", [STREAM.index(b"two"), BORDER - 1], ids=["in a word", "before the blank line"])
async def test_a_stream_that_breaks_inside_an_event_ends_with_an_error_event(
    server: Server, upstream: FaultyUpstream, at: int, ended: str
) -> None:
    """Half an event stays behind: the error event would make a whole one of it, which no client can read."""
    fault = {"stalled": faults.stall, "half-closed": faults.half_close, "cut": faults.cut}[ended]
    upstream.script(fault(STREAM, at))
    answer = await ask(server)
    assert (answer.status, answer.is_complete) == (200, False)
    *events, last, rest = bytes(answer.body).split(b"\n\n")
    assert rest == b""
    assert b"".join(EVENTS).startswith(b"\n\n".join(events))
    assert last.startswith(b'data: {"error"')
    await well(server, upstream)


async def test_a_body_that_is_longer_than_it_says_is_cut_and_the_rest_thrown_away(
    server: Server, upstream: FaultyUpstream
) -> None:
    upstream.script(faults.wrong_length(b'{"a": 1}{"b": 2}', 8))
    answer = await ask(server)
    assert answer.status in (200, 502)
    if answer.status == 200:
        assert bytes(answer.body) == b'{"a": 1}'
    await well(server, upstream)


async def test_a_second_answer_is_nobodys(server: Server, upstream: FaultyUpstream) -> None:
    """Response smuggling: what stands behind an answer must never become another client's."""
    upstream.script(faults.extra_bytes(GOOD))
    await ask(server)
    await well(server, upstream)
    assert len(upstream.connections) == 2


async def test_an_answer_that_nobody_asked_for_is_nobodys(server: Server, upstream: FaultyUpstream) -> None:
    """The same, sent while the connection is idle in the pool."""
    upstream.script(faults.extra_later(GOOD))
    await ask(server)
    await upstream.until(lambda up: up.sent_bytes > len(GOOD))
    await well(server, upstream)
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("size_line", [b"zz\r\n", b"\n"])
async def test_a_stream_that_is_broken_from_the_start_is_502(
    server: Server, upstream: FaultyUpstream, size_line: bytes
) -> None:
    upstream.script(faults.raw(head(200, [faults.EVENT_STREAM, faults.CHUNKED]) + size_line))
    answer = await ask(server)
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_protocol")


# ---------------------------------------------------------------- odd, but right


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (faults.dribble(STREAM), b"".join(EVENTS)),
        (faults.dribble(GOOD), GOOD.partition(b"\r\n\r\n")[2]),
        (faults.until_close(b'{"a": 1}'), b'{"a": 1}'),
        (faults.until_close(b'{"a": 1}', version="1.1"), b'{"a": 1}'),
        (faults.until_close(b"".join(EVENTS), headers=[faults.EVENT_STREAM]), b"".join(EVENTS)),
        (faults.raw(head(200, [faults.CHUNKED]) + b"1;a=b\r\nx\r\n0\r\nx-trailer: y\r\n\r\n"), b"x"),
        (faults.raw(head(200, [("Transfer-Encoding", "CHUNKED")]) + chunked([b"x"])), b"x"),
        (faults.raw(head(200, [("content-length", "1")], reason="") + b"x"), b"x"),
        (faults.raw(head(200, [("content-length", "1"), ("content-length", "1")]) + b"x"), None),
    ],
    ids=[
        "dribbled stream", "dribbled answer", "HTTP/1.0", "until close", "stream until close",
        "extension and trailer", "capitals", "no reason", "the same length twice",
    ],
)  # fmt: skip
async def test_odd_but_right_answers_arrive(
    server: Server, upstream: FaultyUpstream, fault: Script, body: bytes | None
) -> None:
    upstream.script(fault)
    answer = await ask(server)
    assert answer.is_complete
    if body is None:  # may be taken for either
        assert answer.status in (200, 502)
    else:
        assert (answer.status, bytes(answer.body)) == (200, body)
    await well(server, upstream)


async def test_an_event_of_five_megabytes_arrives(server: Server, upstream: FaultyUpstream) -> None:
    upstream.script(faults.huge_event(5_000_000))
    answer = await ask(server)
    assert answer.is_complete
    assert len(answer.body) > 5_000_000


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_keep_the_connection(
    server: Server, upstream: FaultyUpstream, status: int
) -> None:
    upstream.script(faults.raw(head(status)))
    async with Downstream(server.url) as client:
        for _ in range(2):
            answer = await client.ask("POST", CHAT, BODY, JSON)
            assert (answer.status, bytes(answer.body), answer.is_complete) == (status, b"", True)


async def test_an_early_refusal_of_an_upload_reaches_the_client(server: Server, upstream: FaultyUpstream) -> None:
    upstream.greeting = faults.early_answer(faults.json_bytes({"error": {"message": "too much"}}, 413))
    async with Downstream(server.url) as client:
        upload = [("Content-Type", "application/octet-stream"), ("Content-Length", "4000000")]
        await client.send(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in upload)
        )
        await client.send(b"\r\n" + bytes(300_000))
        answer = await client.answer()
    assert answer.status == 413


# ---------------------------------------------------------------- kept-alive connections


async def test_connections_are_reused(server: Server, upstream: FaultyUpstream) -> None:
    for _ in range(5):
        assert (await ask(server)).status == 200
    assert [connection.requests for connection in upstream.connections] == [5]


async def test_an_upstream_that_closes_without_a_word_costs_nobody_a_request(
    server: Server, upstream: FaultyUpstream
) -> None:
    upstream.script(faults.close_after(GOOD))
    for _ in range(20):
        assert (await ask(server)).status == 200
    assert len(upstream.requests) == 20


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_the_keep_alive_race_is_lost_by_nobody(server: Server, upstream: FaultyUpstream, reset: bool) -> None:
    """The upstream closes as the next request arrives; on an inference path it is sent again, on a fresh connection."""
    upstream.script(faults.race(GOOD, reset=reset))
    for _ in range(10):
        assert (await ask(server)).status == 200
    assert len(upstream.requests) == 10


async def test_what_is_not_replay_safe_is_sent_at_most_once(server: Server, upstream: FaultyUpstream) -> None:
    upstream.script(faults.race(GOOD))
    statuses = [(await ask(server, path="/v1/files")).status for _ in range(6)]
    assert set(statuses) <= {200, 502}
    assert len(upstream.requests) == statuses.count(200)
    begun = sum(
        bytes(c.received).count(b"POST ") or (1 if c.received.endswith(b"P") else 0) for c in upstream.connections
    )
    assert begun <= len(statuses)
