"""Every exchange ends exactly once: one outcome, one access line, nothing held (DESIGN 1.5, RELIABILITY 2 and R3)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream
from upstreams.wire import chunk, head

pytestmark = pytest.mark.integration
LOOPS = ("uvloop", "asyncio")

CHAT = "/v1/chat/completions"
AUDIO = "/v1/audio/transcriptions"
JSON = [("Content-Type", "application/json")]
BODY = b'{"model":"demo","messages":[]}'
ASK = request_bytes("a", "POST", CHAT, BODY, JSON)
STREAM = faults.stream_bytes(faults.chat_events("one", "two", "three"))
UPLOAD = (
    b"POST " + AUDIO.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Type: audio/wav\r\nContent-Length: 4000000\r\n\r\n"
)


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat("first")) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: FaultyUpstream, tmp_path: Path) -> AsyncIterator[Inside]:
    timeouts = {"connect_s": 0.3, "first_byte_s": 0.3, "chunk_s": 0.3}
    async with inside(upstream.url, tmp_path, timeouts=timeouts, provider={"connect_timeout_s": 0.3}) as gateway:
        yield gateway


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port where connections are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def full() -> Iterator[str]:
    """The URL of a port that answers no SYN: its queue of accepted connections is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            waiting.append(client)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for client in waiting:
            client.close()


# ---------------------------------------------------------------- the client leaves


async def gone(gateway: Inside, upstream: FaultyUpstream | None, path: str = CHAT) -> None:
    """Nothing is held any more soon after; one line says why."""
    await gateway.at_rest()
    if upstream is not None:
        await upstream.until(lambda up: up.open_connections == 0)
    (line,) = await gateway.lines(1)
    assert (line["outcome"], line["path"]) == ("client_gone", path)


async def test_gone_while_connecting(full: str, tmp_path: Path) -> None:
    async with inside(full, tmp_path, provider={"connect_timeout_s": 30.0}) as gateway:
        async with Downstream(gateway.url) as client:
            await client.send(ASK)
            await gateway.until(lambda: gateway.slots == 1)
        await gone(gateway, None)
        assert not gateway.plane._tasks


async def test_gone_before_the_first_byte(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.silent())
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await upstream.until(lambda up: len(up.requests) == 1)
    await gone(gateway, upstream)


async def test_gone_in_the_middle_of_a_stream(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.stall(STREAM, STREAM.index(b"two")))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await client.until_body()
    await gone(gateway, upstream)


async def test_gone_while_it_reads_nothing(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.endless(faults.filler(8000)))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await client.until_body()
        client.read_no_more()
        await still(upstream)
    await gone(gateway, upstream)


async def test_half_closed_while_it_reads_nothing(gateway: Inside, upstream: FaultyUpstream) -> None:
    """Unsent bytes must not keep the exchange alive."""
    upstream.script(faults.endless(faults.filler(8000)))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await client.until_body()
        client.read_no_more()
        await still(upstream)
        client.finish()
        await gone(gateway, upstream)


async def test_gone_in_the_middle_of_a_json_body(gateway: Inside, upstream: FaultyUpstream) -> None:
    """The exchange never reached the pipeline: it is counted in and out all the same."""
    async with Downstream(gateway.url) as client:
        await client.send(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
        await client.send(b"Content-Length: 1000\r\n\r\n{")
        await asyncio.sleep(0.05)
    await gone(gateway, None)
    assert not upstream.connections


async def test_gone_in_the_middle_of_an_upload_that_is_held_back(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """Bytes that the gateway does not read for now stand before the end: found by the sweep, four times a second."""
    upstream.greeting = faults.never_reads()
    async with inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            writing = asyncio.create_task(client.send(UPLOAD.replace(b"4000000", b"9000000") + bytes(8_000_000)))
            await gateway.until(lambda: gateway.upstream_connections == 1)
            await asyncio.sleep(0.15)
            client.reset()
        await gone(gateway, None, AUDIO)
        await writing


async def test_gone_in_the_middle_of_an_upload(gateway: Inside, upstream: FaultyUpstream) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(UPLOAD + bytes(100_000))
        await upstream.until(lambda up: bool(up.connections and len(up.connections[0].received) > 100_000))
    await gone(gateway, upstream, AUDIO)
    assert not upstream.requests


async def still(upstream: FaultyUpstream) -> None:
    """Wait until the upstream cannot send any more."""
    before = -1
    while upstream.sent_bytes != before:
        before = upstream.sent_bytes
        await asyncio.sleep(0.1)


# ---------------------------------------------------------------- another upstream


async def test_a_refused_connection_goes_to_the_next_upstream(
    nobody: str, upstream: FaultyUpstream, tmp_path: Path
) -> None:
    async with inside([nobody, upstream.url], tmp_path) as gateway, Downstream(gateway.url) as client:
        for _ in range(4):
            await client.send(request_bytes("a", "POST", "/v1/files", b"x"))  # nothing was sent: any method may
            assert (await client.answer()).status == 200
        await gateway.at_rest()
        lines = await gateway.lines(4)
        assert {line["outcome"] for line in lines} == {"complete"}
        assert 2 in {line["attempts"] for line in lines}


async def test_a_connection_that_does_not_come_about_goes_to_the_next_upstream(
    full: str, upstream: FaultyUpstream, tmp_path: Path
) -> None:
    provider = {"connect_timeout_s": 0.2}
    async with inside([full, upstream.url], tmp_path, provider=provider) as gateway, Downstream(gateway.url) as client:
        for _ in range(2):
            await client.send(ASK)
            assert (await client.answer()).status == 200
        await gateway.at_rest()


async def test_when_every_upstream_refuses_the_last_reason_is_told(nobody: str, tmp_path: Path) -> None:
    async with inside(nobody, tmp_path) as gateway, Downstream(gateway.url) as client:
        await client.send(ASK + ASK)
        for _ in range(2):
            answer = await client.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_connect")
        await gateway.at_rest()
        assert {line["outcome"] for line in await gateway.lines(2)} == {"upstream_failed"}


async def test_a_connection_that_never_comes_about_is_504(full: str, tmp_path: Path) -> None:
    async with (
        inside(full, tmp_path, provider={"connect_timeout_s": 0.2}) as gateway,
        Downstream(gateway.url) as client,
    ):
        await client.send(ASK)
        answer = await client.answer()
        assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        await gateway.at_rest()


# ---------------------------------------------------------------- what may be sent twice


async def test_a_streamed_upload_is_never_sent_again(gateway: Inside, upstream: FaultyUpstream) -> None:
    """Its first bytes are gone: a second attempt would be a shorter file that looks whole."""
    upstream.script(faults.cut(b"", 0))
    async with Downstream(gateway.url) as client:
        await client.send(UPLOAD.replace(b"4000000", b"400000"))
        for _ in range(8):
            await client.send(bytes(50_000))
            await asyncio.sleep(0.01)
        answer = await client.answer()
        assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_protocol")
    assert [len(request.body) for request in upstream.requests] == [400_000]
    await gateway.at_rest()


async def test_a_streamed_upload_does_not_bet_on_a_warm_connection(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.race(faults.chat_bytes("warm")))
    async with Downstream(gateway.url) as client:
        for _ in range(4):
            await client.send(ASK)
            assert (await client.answer()).status == 200
            await client.send(UPLOAD.replace(b"4000000", b"4000"))
            await asyncio.sleep(0.02)
            await client.send(bytes(4000))
            assert (await client.answer()).status == 200
    assert [len(r.body) for r in upstream.requests if r.target == AUDIO] == [4000] * 4


async def test_an_upload_that_ends_while_the_gateway_connects_arrives_whole(
    gateway: Inside, upstream: FaultyUpstream
) -> None:
    upstream.script(faults.echo())
    body = bytes(range(256)) * 20
    async with Downstream(gateway.url) as client:
        for cut in (1, 100, 5000):
            start = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body[:cut])
            await client.send(start)
            await client.send(chunk(body[cut:]) + chunk(b""))
            assert (await client.answer()).status == 200
    assert [request.body for request in upstream.requests] == [body] * 3


# ---------------------------------------------------------------- clocks


async def test_a_slow_upload_is_not_the_upstreams_fault(gateway: Inside, upstream: FaultyUpstream) -> None:
    """The wait for the first byte (0.3 s here) begins when the request is whole."""
    async with Downstream(gateway.url) as client:
        await client.send(UPLOAD.replace(b"4000000", b"6"))
        for _ in range(6):
            await asyncio.sleep(0.15)
            await client.send(b"x")
        assert (await client.answer()).status == 200
    await gateway.at_rest()


async def test_an_upstream_that_takes_no_upload_is_504(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.greeting = faults.never_reads()
    async with Downstream(gateway.url) as client:
        writing = asyncio.create_task(client.send(UPLOAD.replace(b"4000000", b"9000000") + bytes(9_000_000)))
        answer = await client.answer()
        assert answer.status == 504
        client.leave()
        await writing
    await gateway.at_rest()


async def test_a_client_that_pauses_does_not_run_out_the_upstreams_clock(
    gateway: Inside, upstream: FaultyUpstream
) -> None:
    """The upstream may pause 0.3 s between chunks; for so long as we hold it back nobody counts."""
    events = [faults.filler(50_000)] * 400 + faults.sse("[DONE]")
    upstream.script(faults.stream(events))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await client.until_body()
        client.read_no_more()
        await still(upstream)
        await asyncio.sleep(1.2)
        client.read_on()
        answer = await client.answer()
    assert answer.is_complete
    assert bytes(answer.body) == b"".join(events)


async def test_a_stream_that_stalls_is_truncated_in_time(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.stall(STREAM, STREAM.index(b"\r\n", STREAM.index(b"two"))))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        answer = await client.answer()
        assert (answer.status, answer.is_complete) == (200, False)
        assert b'"code": "upstream_timeout"' in answer.body
        assert b"[DONE]" not in answer.body
    await upstream.until(lambda up: up.open_connections == 0)
    await gateway.at_rest()
    (line,) = await gateway.lines(1)
    assert (line["outcome"], line["error"]) == ("truncated", "upstream_timeout")


# ---------------------------------------------------------------- back-pressure


async def test_a_slow_reader_costs_64_kib(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.endless(faults.filler(16_000)))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await client.until_body()
        client.read_no_more()
        await still(upstream)
        # The mark, and the read that went over it, with what it completed.
        assert 0 < max(gateway.plane.relay.sender.plain.unsent()) <= 64 * 1024


async def test_a_large_upload_is_streamed_and_held_back(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.greeting = faults.never_reads()
    async with Downstream(gateway.url) as client:
        writing = asyncio.create_task(client.send(UPLOAD.replace(b"4000000", b"9000000") + bytes(9_000_000)))
        await gateway.until(lambda: gateway.upstream_connections == 1)
        await asyncio.sleep(0.15)
        (connection,) = next(pool for pool in gateway.plane.pools.values() if pool.open).open
        assert not connection.writable
        client.leave()
        await writing
    await gateway.at_rest()


# ---------------------------------------------------------------- half a response


async def test_a_head_that_never_ends_is_502(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.endless_head())
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        assert (await client.answer()).status == 502
    await gateway.at_rest()


async def test_interim_responses_have_a_limit(gateway: Inside, upstream: FaultyUpstream) -> None:
    upstream.script(faults.informational(*[103] * 9, then=faults.chat_bytes()))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        assert (await client.answer()).status == 502
    await gateway.at_rest()


async def test_an_early_answer_lets_go_of_the_upload(gateway: Inside, upstream: FaultyUpstream) -> None:
    body = b'{"error": {}}'
    early = head(413, [faults.JSON, ("content-length", str(len(body)))]) + body
    upstream.greeting = faults.early_answer(early, then_close=False)
    async with Downstream(gateway.url) as client:
        await client.send(UPLOAD + bytes(1000))
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (413, "close")
        await client.closed()
    await gateway.at_rest()
    await upstream.until(lambda up: up.open_connections == 0)
    (line,) = await gateway.lines(1)
    assert (line["status"], line["outcome"]) == (413, "complete")


# ---------------------------------------------------------------- defects


async def test_an_exchange_whose_deadlines_cannot_be_looked_at_ends(gateway: Inside, upstream: FaultyUpstream) -> None:
    """R17: a defect of ours, there as an upstream has been silent for a while."""

    class Defect:
        def __getattr__(self, name: str) -> object:
            return getattr(selector, name)

        def suspect(self, index: int, now_ns: int) -> None:
            raise ValueError("a defect")

    upstream.script(faults.silent())
    room = next(room for room in gateway.plane.snapshot.routes.compiled_routes if room.name == "r")
    balancer = room.destinations[0].balancer
    selector = balancer.selector
    room.first_byte_ns = 60_000_000_000
    balancer.selector = Defect()
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await client.closed()
        await gateway.at_rest()
        await upstream.until(lambda up: up.open_connections == 0)
    (line,) = await gateway.lines(1)
    assert line["outcome"] == "client_gone"


async def test_deadlines_are_looked_at_again_after_a_sweep_that_failed(
    gateway: Inside, upstream: FaultyUpstream
) -> None:
    """R17: a defect of ours, in what has nothing to do with the exchange."""
    swept = []

    class Defect:
        def sweep(self, now_ns: int) -> None:
            swept.append(now_ns)
            raise ValueError("a defect")

    pools = gateway.plane.pools
    key = ("a defect", False, "", 0.0, 0)
    pools[key] = Defect()  # type: ignore[assignment]
    try:
        await gateway.until(lambda: len(swept) == 2, "another sweep")
    finally:
        del pools[key]
    upstream.script(faults.silent())
    room = next(room for room in gateway.plane.snapshot.routes.compiled_routes if room.name == "r")
    room.first_byte_ns = 300_000_000
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        assert (await client.answer()).status == 504
