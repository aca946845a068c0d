"""The client leaves: its upstream request is closed at once, in every phase (RELIABILITY R3); slow readers hold the upstream back."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from downstream import Downstream, request_bytes
from integration.gateways import gateway
from integration.processes import Server
from ports import free_port
from upstreams import faults
from upstreams.faulty import FaultyUpstream
from upstreams.wire import head

pytestmark = [pytest.mark.integration]

CHAT = "/v1/chat/completions"
BODY = b'{"model":"demo","messages":[]}'
JSON = [("Content-Type", "application/json")]
STREAM = faults.stream_bytes(faults.chat_events("one", "two", "three"))


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(port: int) -> Iterator[Server]:
    with gateway(f"http://127.0.0.1:{port}", provider={"health_check_interval": 3600.0}) as server:
        yield server


@pytest.fixture
async def upstream(server: Server, port: int) -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat(), port=port) as upstream:
        yield upstream


async def left_soon(upstream: FaultyUpstream) -> None:
    """Wait until the gateway has closed every connection to the upstream."""
    await upstream.until(lambda up: up.open_connections == 0)


async def test_before_the_first_byte(server: Server, upstream: FaultyUpstream) -> None:
    upstream.script(faults.silent())
    async with Downstream(server.url) as client:
        await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
        await upstream.until(lambda up: len(up.requests) == 1)
    await left_soon(upstream)


async def test_in_the_middle_of_a_stream(server: Server, upstream: FaultyUpstream) -> None:
    upstream.script(faults.stall(STREAM, STREAM.index(b"two")))
    async with Downstream(server.url) as client:
        await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
        await client.until_body()
    await left_soon(upstream)


async def test_in_the_middle_of_a_document_that_is_held(server: Server, upstream: FaultyUpstream) -> None:
    wire = head(200, [faults.JSON, ("content-length", "1000")]) + b"{"
    upstream.script(faults.stall(wire, len(wire)))
    async with Downstream(server.url) as client:
        await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
        await upstream.until(lambda up: up.sent_bytes == len(wire))
    await left_soon(upstream)


async def test_in_the_middle_of_a_plain_body(server: Server, upstream: FaultyUpstream) -> None:
    wire = head(200, [("content-type", "audio/wav"), ("content-length", "1000")]) + b"RIFF"
    upstream.script(faults.stall(wire, len(wire)))
    async with Downstream(server.url) as client:
        await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
        await client.until_body()
    await left_soon(upstream)


async def test_in_the_middle_of_its_own_upload(server: Server, upstream: FaultyUpstream) -> None:
    async with Downstream(server.url) as client:
        await client.send(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n")
        await client.send(b"Content-Length: 4000000\r\n\r\n" + bytes(400_000))
        await upstream.until(lambda up: bool(up.connections and len(up.connections[0].received) > 100_000))
    await left_soon(upstream)
    assert not upstream.requests


async def test_while_it_reads_nothing(server: Server, upstream: FaultyUpstream) -> None:
    upstream.script(faults.endless(faults.filler(4000)))
    async with Downstream(server.url) as client:
        await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
        await client.until_body()
        client.read_no_more()
        await held_back(upstream)
    await left_soon(upstream)


async def test_half_closed(server: Server, upstream: FaultyUpstream) -> None:
    """A client that closes sends FIN first: to wait for more would be to work for nobody (nginx and Envoy see it so too)."""
    upstream.script(faults.silent())
    async with Downstream(server.url) as client:
        await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
        await upstream.until(lambda up: len(up.requests) == 1)
        client.finish()
        await left_soon(upstream)


async def held_back(upstream: FaultyUpstream) -> None:
    """Wait until the upstream cannot send any more."""
    before, still = -1, 0
    deadline = time.monotonic() + 20
    while still < 10:
        assert time.monotonic() < deadline, f"{upstream.sent_bytes} bytes and no end"
        still = still + 1 if upstream.sent_bytes == before else 0
        before = upstream.sent_bytes
        await asyncio.sleep(0.02)


async def test_a_slow_reader_holds_the_upstream_back_and_costs_little(server: Server, upstream: FaultyUpstream) -> None:
    upstream.script(faults.endless(faults.filler(16_000)))
    async with Downstream(server.url) as client:
        await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
        await client.until_body()
        client.read_no_more()
        before_kb = rss_kb(server)
        await held_back(upstream)
        # The kernel's buffers on four sockets may hold megabytes; the gateway itself must not.
        assert rss_kb(server) - before_kb < 4096
        sent = upstream.sent_bytes
        client.read_on()
        await upstream.until(lambda up: up.sent_bytes > sent + 1_000_000)


async def test_a_slow_upstream_holds_the_client_back(server: Server, upstream: FaultyUpstream) -> None:
    upstream.greeting = faults.never_reads()
    sent = 0
    async with Downstream(server.url) as client:
        await client.send(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n")
        await client.send(b"Content-Length: 9000000\r\n\r\n")
        before_kb = rss_kb(server)
        try:
            async with asyncio.timeout(3):
                while sent < 9_000_000:
                    await client.send(bytes(50_000))
                    sent += 50_000
        except TimeoutError:
            pass
        assert rss_kb(server) - before_kb < 4096


def rss_kb(server: Server) -> int:
    """Resident memory of the gateway with all its processes."""
    out = subprocess.run(["ps", "-o", "rss=", "-g", str(server.process.pid)], capture_output=True, text=True).stdout
    return sum(map(int, out.split()))
