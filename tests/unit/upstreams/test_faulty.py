"""The faulty upstream does what it says, and sees what is sent: else no test that leans on it means anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from upstreams import faults
from upstreams.faulty import FaultyUpstream

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(upstream: FaultyUpstream) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(upstream: FaultyUpstream) -> bytes:
    """Everything one request on a new connection gets, until the upstream's end."""
    async with connected(upstream) as (reader, writer):
        writer.write(REQUEST)
        return await reader.read()


async def test_answers_follow_the_script_and_the_last_one_repeats() -> None:
    async with (
        FaultyUpstream(faults.status(503, retry_after="7"), faults.chat()) as upstream,
        connected(upstream) as (reader, writer),
    ):
        heads = []
        for _ in range(3):
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
    assert [head.split()[1] for head in heads] == [b"503", b"200", b"200"]
    assert b"retry-after: 7\r\n" in heads[0]
    assert [request.raw for request in upstream.requests] == [REQUEST] * 3
    assert [connection.requests for connection in upstream.connections] == [3]


async def test_cut_sends_so_many_bytes_then_fin() -> None:
    wire = faults.stream_bytes()
    async with FaultyUpstream(faults.cut(wire, 100)) as upstream:
        assert await ask(upstream) == wire[:100]
    assert bytes(upstream.connections[0].sent) == wire[:100]


async def test_reset_is_a_reset() -> None:
    async with FaultyUpstream(faults.cut(faults.stream_bytes(), 100, reset=True)) as upstream:
        with pytest.raises(ConnectionResetError):
            await ask(upstream)


async def test_half_close_keeps_reading() -> None:
    wire = faults.stream_bytes()
    async with FaultyUpstream(faults.half_close(wire, 50)) as upstream, connected(upstream) as (reader, writer):
        writer.write(REQUEST)
        assert await reader.read() == wire[:50]
        writer.write(b"more")
        await upstream.until(lambda up: up.connections[0].received.endswith(b"more"))


async def test_stalled_upstream_sees_the_gateway_leave() -> None:
    async with FaultyUpstream(faults.stall(faults.stream_bytes(), 20)) as upstream:
        async with connected(upstream) as (reader, writer):
            writer.write(REQUEST)
            await reader.readexactly(20)
            assert upstream.open_connections == 1
        await upstream.until(lambda up: up.open_connections == 0)


async def test_race_closes_when_the_next_request_begins() -> None:
    wire = faults.chat_bytes()
    async with (
        FaultyUpstream(faults.race(wire)) as upstream,
        connected(upstream) as (reader, writer),
    ):
        writer.write(REQUEST)
        await reader.readexactly(len(wire))
        writer.write(REQUEST[:1])
        assert await reader.read() == b""
    assert len(upstream.requests) == 1


async def test_dribble_is_right_in_the_end() -> None:
    wire = faults.stream_bytes()
    async with (
        FaultyUpstream(faults.dribble(wire)) as upstream,
        connected(upstream) as (reader, writer),
    ):
        writer.write(REQUEST)
        assert await reader.readexactly(len(wire)) == wire


async def test_a_sender_that_nobody_reads_waits() -> None:
    async with (
        FaultyUpstream(faults.endless(b"data: " + b"x" * 10_000 + b"\n\n")) as upstream,
        connected(upstream) as (reader, writer),
    ):
        writer.write(REQUEST)
        await reader.readexactly(100)
        before = -1
        while upstream.sent_bytes != before:  # the kernel's buffers fill, then it stays as it is
            before = upstream.sent_bytes
            await asyncio.sleep(0.1)
        assert upstream.sent_bytes < 64 * 1024 * 1024


async def test_early_answer_comes_before_the_body() -> None:
    wire = faults.json_bytes({}, 413)
    async with (
        FaultyUpstream(greeting=faults.early_answer(wire)) as upstream,
        connected(upstream) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        assert await reader.readexactly(len(wire)) == wire
    assert not upstream.requests


async def test_what_is_not_http_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="request line"):
        async with FaultyUpstream(faults.chat()) as upstream, connected(upstream) as (reader, writer):
            writer.write(b"nonsense\r\n\r\n")
            await reader.read()


async def test_closing_ends_silent_connections() -> None:
    async with FaultyUpstream(faults.silent()) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(REQUEST)
        await upstream.until(lambda up: len(up.requests) == 1)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
