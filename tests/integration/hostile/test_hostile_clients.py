"""S7, S8: floods and slow clients. The gateway lives, others hardly notice, attackers are closed at their deadline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from downstream import Downstream
from integration.gateways import gateway_async
from integration.inside import inside
from integration.processes import Server
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.proxy import relay_cy
from budgateway.server import connection_cy

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
BODY = b'{"model":"demo","messages":[]}'
# S7 and S8 say twice; attackers, upstream and measured client share two cores with the gateway, and a short run's tail is coarse.
RATIO = 2.0
SLACK_S = 0.010
TRIES = 4

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def bomb_of_lines() -> bytes:
    """More headers than there may be."""
    return HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(2000)) + b"\r\n"


def bomb_of_bytes() -> bytes:
    """One header that does not end."""
    return HEAD + b"X: " + b"y" * 200_000


def chunk_extensions() -> bytes:
    """A byte of body with a kilobyte of extension, again and again (CVE-2023-39326)."""
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"x" * 1000 + b"\r\n{\r\n") * 100


def small_chunk_extensions() -> bytes:
    """Extensions each of which would be allowed."""
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"x" * 200 + b"\r\n{\r\n") * 1000


def nested_json() -> bytes:
    """A hundred thousand brackets."""
    body = b'{"model":"demo","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def many_members() -> bytes:
    """An object of many members, the model named twice at its ends."""
    body = b'{"model":"a",' + b",".join(b'"%d":0' % number for number in range(20_000)) + b',"model":"b"}'
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


FLOODS = {
    bomb_of_lines: b"431",
    bomb_of_bytes: b"431",
    chunk_extensions: b"400",
    small_chunk_extensions: b"400",
    nested_json: b"400",
    many_members: b"400",
}


async def spit(url: str, wire: bytes) -> bytes:
    """Send it all, and read until the gateway has said what it thinks: its status."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(wire)
        # Not wait_for: Python 3.11's forgets a cancellation that comes together with the answer, and then nothing ends a flood.
        async with asyncio.timeout(20):
            line = await reader.readline()
        return line.split(b" ")[1] if line else b"closed"
    except ConnectionError:
        return b"reset"
    finally:
        writer.transport.abort()


async def latencies(url: str, count: int) -> list[float]:
    """Of so many requests, one after the other."""
    found = []
    async with Downstream(url) as client:
        for _ in range(count):
            began = time.perf_counter()
            answer = await client.ask("POST", CHAT, BODY, JSON)
            found.append(time.perf_counter() - began)
            assert answer.status == 200
            await asyncio.sleep(0.001)
    return found


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


async def others_hardly_notice(url: str, attack: Callable[[], Awaitable[None]], count: int) -> None:
    """While the attack runs, requests of others take at most twice as long at p99; the best of a few tries counts, as what
    disturbs this machine besides is not the gateway's doing."""
    seen = []
    for _ in range(TRIES):
        before = p99(await latencies(url, count))
        attackers = asyncio.ensure_future(attack())
        try:
            during = p99(await latencies(url, count))
            assert not attackers.done() or attackers.result() is None
        finally:
            attackers.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await attackers
        seen.append((round(before * 1000, 2), round(during * 1000, 2)))
        if during <= RATIO * before + SLACK_S:
            return
    pytest.fail(f"p99 in ms before and during: {seen}")


@asynccontextmanager
async def served(**options: object) -> AsyncIterator[Server]:
    """A gateway in a process of its own before an upstream that answers at once."""
    async with FaultyUpstream(faults.chat()) as upstream, gateway_async(upstream.url, **options) as server:
        yield server


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
async def test_a_broken_request_is_refused_and_the_gateway_lives(tmp_path: Path, flood: Callable[[], bytes]) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, inside(upstream.url, tmp_path) as gateway:
        assert {await spit(gateway.url, flood()) for _ in range(3)} == {FLOODS[flood]}
        async with Downstream(gateway.url) as client:
            assert (await client.ask("POST", CHAT, BODY, JSON)).status == 200
        assert len(upstream.requests) == 1
        await gateway.at_rest()
        await gateway.until(lambda: not gateway.plane.server_state.connections)


async def flooded(seconds: float, clients: int, count: int) -> None:
    said: Counter[bytes] = Counter()

    async def attack(url: str) -> None:
        async def attacker(number: int) -> None:
            floods = [(flood(), status) for flood, status in FLOODS.items()]
            while True:
                wire, status = floods[number % len(floods)]
                number += 1
                answer = await spit(url, wire)
                assert answer in (status, b"reset"), answer
                said[answer] += 1
                await asyncio.sleep(0.02)

        async with asyncio.timeout(seconds * 20), asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(attacker(number))

    async with served() as server:
        await others_hardly_notice(server.url, lambda: attack(server.url), count)
        assert said.total() > clients
        assert said[b"reset"] <= said.total() // 10


@pytest.mark.alone
async def test_others_hardly_notice_a_flood() -> None:
    await flooded(2, 6, 150)


@pytest.mark.soak
async def test_others_hardly_notice_a_long_flood() -> None:
    await flooded(20, 20, 2000)


# ---------------------------------------------------------------- slow clients


class Slow(asyncio.Protocol):
    """A client that sends a byte now and then, and does not read at all when told so."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.ended = 0.0
        self.heard = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = time.monotonic()


async def crowd(url: str, count: int, begin: bytes, window: int = 0) -> list[Slow]:
    """So many slow clients, each with the beginning of a request; their kernels take `window` bytes (0: as usual)."""
    host, _, port = url.removeprefix("http://").partition(":")
    loop = asyncio.get_running_loop()

    async def connect() -> tuple[asyncio.Transport, Slow]:
        sock = socket.socket()
        sock.setblocking(False)
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        await loop.sock_connect(sock, (host, int(port)))
        return await loop.create_connection(Slow, sock=sock)

    found = []
    for at in range(0, count, 100):
        made = await asyncio.gather(*(connect() for _ in range(min(100, count - at))))
        for transport, slow in made:
            slow.began = time.monotonic()
            transport.write(begin)
            found.append(slow)
    return found


async def drip(slow: list[Slow], byte: bytes, pause_s: float) -> None:
    """A byte from each of them, time and again, for as long as any is there."""
    while any(not one.ended for one in slow):
        for one in slow:
            if not one.ended and one.transport is not None and not one.transport.is_closing():
                one.transport.write(byte)
        await asyncio.sleep(pause_s)


def let_go(slow: list[Slow]) -> None:
    for one in slow:
        if one.transport is not None:
            one.transport.abort()


async def slow_heads(count: int, deadline_s: float, requests: int) -> None:
    # Each try brings a crowd of its own, beside those of the tries before it.
    settings = {"head_timeout": deadline_s, "max_connections": count * TRIES + 100}
    async with served(settings=settings) as server:
        slow: list[Slow] = []

        async def attack() -> None:
            slow.extend(await crowd(server.url, count, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Slow: "))
            await drip(slow, b"x", 0.5)

        try:
            await others_hardly_notice(server.url, attack, requests)
            async with asyncio.timeout(deadline_s + 20):
                await drip(slow, b"x", 0.25)
            lasted = [one.ended - one.began for one in slow]
            assert min(lasted) > deadline_s * 0.9
            # A sweep's slack, and what a loaded machine takes to notice so many.
            assert statistics.median(lasted) < deadline_s + 1.5
            assert all(one.heard.startswith(b"HTTP/1.1 408 ") for one in slow)
        finally:
            let_go(slow)


@pytest.mark.alone
async def test_slow_heads_are_closed_at_their_deadline() -> None:
    await slow_heads(150, 2.0, 150)


@pytest.mark.soak
async def test_a_thousand_slow_heads_are_closed_at_their_deadline() -> None:
    await slow_heads(1000, 8.0, 1000)


async def slow_bodies(count: int, deadline_s: float, tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, inside(upstream.url, tmp_path) as gateway:
        slow = await crowd(gateway.url, count, HEAD + b"Content-Length: 100000\r\n\r\n{")
        try:
            async with asyncio.timeout(deadline_s + 20):
                await drip(slow, b" ", 0.1)
            assert all(one.heard.startswith(b"HTTP/1.1 408 ") for one in slow)
            assert statistics.median(one.ended - one.began for one in slow) < deadline_s + 2
        finally:
            let_go(slow)
        assert not upstream.requests
        await gateway.at_rest()


async def test_slow_bodies_are_closed_though_they_never_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_cy, "BODY_IDLE_NS", 1_000_000_000)
    await slow_bodies(100, 1.0, tmp_path)


@pytest.mark.soak
async def test_a_thousand_slow_bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_cy, "BODY_IDLE_NS", 5_000_000_000)
    await slow_bodies(1000, 5.0, tmp_path)


async def slow_readers(count: int, tmp_path: Path) -> None:
    """A client that reads nothing of a long response fills its own buffers only, pauses its upstream, and is closed in the end."""
    async with FaultyUpstream(faults.endless(faults.chat_events("x" * 8000)[1])) as upstream:
        async with inside(upstream.url, tmp_path, timeouts={"chunk_s": 1.0}) as gateway:
            ask = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
            slow = await crowd(gateway.url, count, b"")
            try:
                for one in slow:
                    assert one.transport is not None
                    one.transport.pause_reading()
                    one.transport.write(ask)
                await gateway.until(lambda: gateway.in_flight == count)
                # Whoever reads meanwhile is served.
                async with Downstream(gateway.url) as client:
                    assert (await client.ask("GET", "/livez")).status == 200
                async with asyncio.timeout(40):
                    while gateway.in_flight:
                        await asyncio.sleep(0.05)
                assert {line["outcome"] for line in await gateway.lines(count + 1)} == {"client_gone", "complete"}
                await upstream.until(lambda up: up.open_connections == 0)
            finally:
                let_go(slow)
            await gateway.at_rest()


async def test_slow_readers_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_cy, "SEND_NS", 1_000_000_000)
    await slow_readers(20, tmp_path)


ENDLESS = b'{"model":"demo","messages":[],"n":1}'


def endless_if_asked(event: bytes) -> Answer:
    """A stream that goes on for as long as the gateway reads it, for those that asked for `ENDLESS`."""
    endless, chat = faults.endless(event), faults.chat()

    async def answer(peer: Peer, request: Received) -> None:
        await (endless if request.body == ENDLESS else chat)(peer, request)

    return answer


@pytest.mark.soak
@pytest.mark.timeout(240)
async def test_a_thousand_slow_readers(tmp_path: Path) -> None:
    """The gateway is a process of its own with the deadlines it has by default: a minute once a stream stood still."""
    count, chunk_s, send_s = 1000, 5.0, 60.0
    log = tmp_path / "access.log"
    # No upstream gets more than half of the connections.
    settings = {"max_connections": 2 * count + 200, "access_log": str(log)}
    slow: list[Slow] = []
    async with (
        FaultyUpstream(endless_if_asked(faults.chat_events("x" * 8000)[1])) as upstream,
        gateway_async(upstream.url, settings=settings, route={"chunk_timeout": chunk_s}) as server,
    ):

        async def attack() -> None:
            if slow:
                return
            began = await crowd(server.url, count, b"", window=4096)
            for one in began:
                assert one.transport is not None
                one.transport.pause_reading()
                one.transport.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(ENDLESS) + ENDLESS)
            slow.extend(began)
            await upstream.until(lambda up: sum(one.body == ENDLESS for one in up.requests) == count, 30)
            # What they do not read has filled every buffer, and stands.
            sent = -1
            while sent != upstream.sent_bytes:
                sent = upstream.sent_bytes
                await asyncio.sleep(0.5)

        try:
            before = p99(await latencies(server.url, 2000))
            await attack()
            began = time.monotonic()
            during = p99(await latencies(server.url, 2000))
            assert upstream.open_connections > count  # all of them are still there
            await upstream.until(lambda up: up.open_connections < 10, chunk_s + send_s + 10)
            lasted = time.monotonic() - began
        finally:
            let_go(slow)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ends = Counter(line["outcome"] for line in lines)
    print(
        f"{count} slow readers: p99 of others {before * 1000:.2f} ms before, {during * 1000:.2f} during; gone after {lasted:.1f} s"
    )
    assert during <= RATIO * before + SLACK_S
    assert ends["client_gone"] == count, ends
