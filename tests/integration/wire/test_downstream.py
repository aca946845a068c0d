"""The front door over real sockets: framing, pipelining, keep-alive, limits and deadlines (RELIABILITY 1 and 3.8)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream
from upstreams.wire import chunk, chunked, head

pytestmark = pytest.mark.integration
LOOPS = ("uvloop", "asyncio")

JSON = [("Content-Type", "application/json")]
STREAM = faults.stream_bytes(faults.chat_events("one", "two"))
SHORT_S = 0.3


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.echo()) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: FaultyUpstream, tmp_path: Path) -> AsyncIterator[Inside]:
    async with inside(
        upstream.url, tmp_path, head_timeout_s=SHORT_S, keepalive_s=3 * SHORT_S, max_body_bytes=100_000
    ) as gateway:
        yield gateway


def posts(count: int) -> bytes:
    """So many requests with bodies that tell them apart, in turn with a length and in chunks."""
    wire = bytearray()
    for number in range(count):
        body = b'{"number": %d}' % number
        start = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        if number % 2:
            wire += start + b"Transfer-Encoding: chunked\r\n\r\n" + chunked([body[:4], body[4:]])
        else:
            wire += start + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return bytes(wire)


async def numbers(client: Downstream, count: int) -> list[int]:
    """Return the numbers of the requests that the next responses belong to."""
    found = []
    for _ in range(count):
        answer = await client.answer()
        assert (answer.status, answer.is_complete) == (200, True)
        found.append(json.loads(answer.json()["body"])["number"])
    return found


# ---------------------------------------------------------------- pipelining


@pytest.mark.parametrize("count", [2, 7, 100])
async def test_pipelined_requests_are_answered_in_order(gateway: Inside, upstream: FaultyUpstream, count: int) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(posts(count))
        assert await numbers(client, count) == list(range(count))
    assert len(upstream.requests) == count
    await gateway.at_rest()


async def test_pipelined_requests_cut_at_every_byte(gateway: Inside, upstream: FaultyUpstream) -> None:
    wire = posts(2)
    async with Downstream(gateway.url) as client:
        for cut in range(1, len(wire)):
            await client.send(wire[:cut])
            await asyncio.sleep(0)
            await client.send(wire[cut:])
            assert await numbers(client, 2) == [0, 1], cut
    await gateway.at_rest()


async def test_pipelined_requests_byte_by_byte(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        for byte in posts(6):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await numbers(client, 6) == list(range(6))


async def test_ten_thousand_refusals_in_one_write_do_not_nest(gateway: Inside) -> None:
    """Each is answered while the buffer that holds the next is read: a call inside a call would end the process."""
    request = b"CHECKOUT / HTTP/1.1\r\nHost: a\r\nx: y\r\n\r\n".replace(b"CHECKOUT", b"POST")
    body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{"
    async with Downstream(gateway.url) as client:
        await client.send(body * 3000)
        for _ in range(3000):
            assert (await client.answer()).status == 400
        await client.send(request)
        assert (await client.answer()).status == 200


async def test_a_bad_request_behind_good_ones_ends_the_connection(gateway: Inside, upstream: FaultyUpstream) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(posts(3) + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + posts(1))
        assert await numbers(client, 3) == [0, 1, 2]
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (400, "close")
        await client.closed()
    assert len(upstream.requests) == 3


async def test_what_follows_connection_close_is_not_read(gateway: Inside, upstream: FaultyUpstream) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes("a", "POST", "/", b"{}", [*JSON, ("Connection", "close")]) + posts(5))
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        await client.closed()
    assert len(upstream.requests) == 1


async def test_a_pipeline_of_somebody_who_does_not_read_waits(gateway: Inside, upstream: FaultyUpstream) -> None:
    """R13: every answer fits into one read of the upstream, so only the client's reading can hold the next one back."""
    upstream.script(faults.raw(faults.json_bytes({"text": "x" * 50_000})))
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes("a", "POST", "/", b"{}", JSON))
        await client.answer()
        client.read_no_more()
        await client.send(request_bytes("a", "POST", "/", b"{}", JSON) * 600)
        served = -1
        while served != len(upstream.requests):  # until the kernel's buffers are full
            served = len(upstream.requests)
            await asyncio.sleep(0.2)
        (connection,) = gateway.plane.server_state.connections
        held = connection._transport.get_write_buffer_size() if hasattr(connection, "_transport") else 0
        assert held < 128 * 1024
        assert served < 400, "30 MB of answers went somewhere"
        client.read_on()
        for _ in range(600):
            assert (await client.answer()).status == 200


# ---------------------------------------------------------------- keep-alive and versions


async def test_an_http_1_0_client_gets_an_answer_and_a_close(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(b"GET /v1/x HTTP/1.0\r\nHost: a\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        await client.closed()


async def test_an_http_1_0_client_gets_a_stream_without_chunks(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.dribble(STREAM, 50))
    async with Downstream(gateway.url) as client:
        await client.send(b"GET /v1/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.answer()
        assert answer.header("transfer-encoding") is None
        assert answer.header("connection") == "close"
        assert bytes(answer.body) == b"".join(faults.chat_events("one", "two"))
        await client.closed()
        assert not client.was_reset


async def test_a_cut_stream_of_an_http_1_0_client_ends_with_a_reset(gateway: Inside, upstream: FaultyUpstream) -> None:
    """FIN would tell it that the stream is whole."""
    upstream.script(faults.cut(STREAM, STREAM.index(b"two")))
    async with Downstream(gateway.url) as client:
        await client.send(b"GET /v1/x HTTP/1.0\r\nHost: a\r\n\r\n")
        await client.closed()
        assert client.was_reset
    await gateway.at_rest()


async def test_head_has_the_length_and_no_body(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.raw(head(200, [("content-length", "1234")])), faults.echo())
    async with Downstream(gateway.url) as client:
        await client.send(b"HEAD /v1/x HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/y HTTP/1.1\r\nHost: a\r\n\r\n")
        while client.bytes_read.count(b"HTTP/1.1 200") < 2:
            await asyncio.sleep(0.01)
        first, _, second = bytes(client.bytes_read).partition(b"\r\n\r\n")
        assert b"content-length: 1234" in first.lower()
        assert second.startswith(b"HTTP/1.1 200")
    assert [request.method for request in upstream.requests] == ["HEAD", "GET"]
    assert len(upstream.connections) == 1


async def test_an_idle_connection_is_closed_in_time(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(posts(1))
        await numbers(client, 1)
        async with asyncio.timeout(5):
            await client.closed()
        assert not client.was_reset
    async with Downstream(gateway.url) as silent, asyncio.timeout(5):
        await silent.closed()


# ---------------------------------------------------------------- deadlines and limits


@pytest.mark.parametrize(
    "piece", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nx:" + b"y" * 8000]
)
async def test_a_head_that_does_not_end_is_408(gateway: Inside, upstream: FaultyUpstream, piece: bytes) -> None:
    async with Downstream(gateway.url) as client, asyncio.timeout(5):
        await client.send(piece)
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (408, "close")
        await client.closed()
    assert not upstream.connections


async def test_a_head_that_dribbles_is_408_no_matter_how_busily(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client, asyncio.timeout(5):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        while not client.is_closed and not client.bytes_read:
            await client.send(b"x: y\r\n")
            await asyncio.sleep(0.05)
        assert (await client.answer()).status == 408


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"x: " + b"y" * 5000 + b"\r\n") * 8 + b"\r\n", 431),
        (b"GET /" + b"x" * 40_000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"x: " + b"y" * 5000 + b"\r\n") * 8, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: something\r\nContent-Length: 1\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)  # fmt: skip
async def test_what_is_too_much_is_refused_before_it_is_read(
    gateway: Inside, upstream: FaultyUpstream, wire: bytes, status: int
) -> None:
    async with Downstream(gateway.url) as client, asyncio.timeout(5):
        await client.send(wire)
        answer = await client.answer()
        assert not client.informational
        assert answer.status == status or (status == 400 and 400 <= answer.status <= 505)
        await client.closed()
    assert not upstream.connections
    assert (await gateway.lines(1))[0]["outcome"] == "refused"
    await gateway.at_rest()


async def test_a_json_body_in_chunks_that_grows_too_large_is_413(gateway: Inside, upstream: FaultyUpstream) -> None:
    async with Downstream(gateway.url) as client, asyncio.timeout(5):
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(11):
            await client.send(chunk(b" " * 10_000))
        assert (await client.answer()).status == 413
        await client.closed()
    assert not upstream.connections
    await gateway.at_rest()


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends with the excess"])
async def test_an_upload_that_grows_too_large_is_413_and_never_looks_whole(
    gateway: Inside, upstream: FaultyUpstream, ends: bool
) -> None:
    async with Downstream(gateway.url) as client, asyncio.timeout(5):
        await client.send(
            b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(bytes(50_000))
        )
        await upstream.until(lambda up: bool(up.connections and len(up.connections[0].received) > 50_000))
        await client.send(chunk(bytes(60_000)) + (chunk(b"") if ends else b""))
        assert (await client.answer()).status == 413
        await client.closed()
    await upstream.until(lambda up: up.open_connections == 0)
    assert not upstream.requests
    await gateway.at_rest()
    (line,) = await gateway.lines(1)
    assert (line["status"], line["outcome"]) == (413, "refused")


async def test_a_body_that_stops_arriving_is_408(gateway: Inside, upstream: FaultyUpstream) -> None:
    """The sweep is asked about a time a minute ahead: nobody waits for it."""
    async with Downstream(gateway.url) as client, asyncio.timeout(5):
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        await gateway.until(lambda: bool(gateway.plane.server_state.connections))
        await asyncio.sleep(0.05)
        gateway.plane.server_state.sweep(asyncio.get_running_loop().time().__int__() * 10**9 + 59 * 10**9)
        assert not client.bytes_read
        gateway.plane.server_state.sweep(asyncio.get_running_loop().time().__int__() * 10**9 + 62 * 10**9)
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (408, "close")
        await client.closed()
    assert not upstream.connections
    await gateway.at_rest()


async def test_more_connections_than_allowed_are_told_so(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async with inside(upstream.url, tmp_path, max_connections=2) as gateway:
        async with Downstream(gateway.url) as one, Downstream(gateway.url) as two:
            await one.send(posts(1))
            assert await numbers(one, 1) == [0]
            await two.send(posts(1))
            assert await numbers(two, 1) == [0]
            async with Downstream(gateway.url) as three:
                answer = await three.answer()
                assert (answer.status, answer.header("connection")) == (503, "close")
                assert answer.header("retry-after") is not None
                await three.closed()
            await one.send(posts(1))
            assert await numbers(one, 1) == [0]
        await gateway.until(lambda: not gateway.plane.server_state.connections)
        async with Downstream(gateway.url) as four:
            await four.send(posts(1))
            assert await numbers(four, 1) == [0]


# ---------------------------------------------------------------- Expect: 100-continue


EXPECT = b"Host: a\r\nExpect: 100-continue\r\n"


@pytest.mark.parametrize("kind", [b"application/json", b"application/octet-stream"])
async def test_a_wanted_body_is_asked_for(gateway: Inside, kind: bytes) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(b"POST / HTTP/1.1\r\n" + EXPECT + b"Content-Type: " + kind + b"\r\nContent-Length: 2\r\n\r\n")
        while not client.informational:
            await asyncio.sleep(0.005)
        assert [answer.status for answer in client.informational] == [100]
        await client.send(b"{}")
        answer = await client.answer()
        assert answer.json()["body"] == "{}"
        assert "expect" not in {name.lower() for name, _ in answer.json()["headers"]}


async def test_a_body_that_came_along_is_not_asked_for(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(b"POST / HTTP/1.1\r\n" + EXPECT + b"Content-Length: 4\r\n\r\nab")
        await asyncio.sleep(0.05)
        await client.send(b"cd")
        assert (await client.answer()).json()["body"] == "abcd"
        assert not client.informational


async def test_a_body_that_no_route_wants_is_not_asked_for(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async with inside(upstream.url, tmp_path, path="/v1/*") as gateway, Downstream(gateway.url) as client:
        await client.send(b"POST /x HTTP/1.1\r\n" + EXPECT + b"Content-Length: 4\r\n\r\n")
        assert (await client.answer()).status == 404
        assert not client.informational
        await client.closed()


async def test_an_http_1_0_client_is_not_asked(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(b"POST / HTTP/1.0\r\n" + EXPECT + b"Content-Length: 4\r\n\r\n")
        await asyncio.sleep(0.05)
        await client.send(b"abcd")
        assert (await client.answer()).json()["body"] == "abcd"
        assert not client.informational
