"""R1: whatever befalls upstreams, no byte of a stream is lost, doubled, moved, damaged or given to another, and the books agree."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import httptools
import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import inside
from integration.sizes import long
from upstreams.ledger import (
    DONE,
    ERROR,
    FAULTS,
    Attempt,
    Entry,
    Sight,
    Tampered,
    event,
    join,
    plan,
    read,
    remembered,
    tally,
)
from upstreams.mortal import Book, Mortals

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
JSON = ("Content-Type", "application/json")
EVENTS = 100  # of a stream, on average


def ask(host: str, exchange: int) -> bytes:
    """The request of an exchange: it is named in a header and in the body."""
    body = b'{"model":"demo","stream":true,"messages":[],"user":"%d"}' % exchange
    return request_bytes(host, "POST", CHAT, body, [JSON, ("X-Request-Id", str(exchange))])


def sight(exchange: int, answer: Answer, *, left: bool = False) -> Sight:
    """What an answer shows; raises Tampered."""
    body = bytes(answer.body)
    if left:
        attempt, events, _ = read(exchange, body)
        return Sight("left", attempt, events, len(body))
    if answer.header("x-request-id") != str(exchange):
        raise Tampered(f"exchange {exchange} got the answer {answer.headers}")
    if answer.status != 200:
        return Sight("failed", body_bytes=len(body), code=json.loads(body)["error"]["code"])
    attempt, events, rest = read(exchange, body)
    if answer.is_complete:
        if rest not in (DONE, ERROR):
            raise Tampered(f"exchange {exchange} is whole and ends with {rest!r}")
        if rest == ERROR:
            return Sight("error", attempt, events, len(body), "upstream_error")
        return Sight("whole", attempt, events, len(body))
    if not (rest.startswith(b'data: {"error":') and rest.endswith(b"}\n\n") and rest.count(b"\n\n") == 1):
        raise Tampered(f"exchange {exchange} is cut and ends with {rest!r}")
    return Sight("cut", attempt, events, len(body), json.loads(rest[6:])["error"]["code"])


@asynccontextmanager
async def upstreams(folder: Path, seed: int, events: int, exchanges: int) -> AsyncIterator[Mortals]:
    """Three model servers in processes of their own; what they did is known when they have ended."""
    servers = Mortals(folder, seed, events, exchanges, 3)
    await servers.start()
    try:
        yield servers
    finally:
        await servers.stop()


@asynccontextmanager
async def killing(servers: Mortals, dice: Random, pause_s: float) -> AsyncIterator[None]:
    """One of them dies every so often."""
    task = asyncio.create_task(servers.kill_for_ever(dice, pause_s))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def begun(connection: Downstream, size_bytes: int) -> Answer | None:
    """Wait for so much of an answer; None when it has come to its end before."""
    while not connection.has_answer:
        if len(connection.partial.body) >= size_bytes:
            return connection.partial
        await connection.changed()
    return None


async def client(url: str, exchanges: list[int], dice: Random, sights: dict[int, Sight]) -> None:
    """Ask for one exchange after the other on a connection that is kept for as long as it lives; one in fifteen is left."""
    while exchanges:
        async with Downstream(url) as connection:
            for _ in range(20):
                if not exchanges or connection.is_closed:
                    break
                exchange = exchanges.pop()
                await connection.send(ask(connection.host, exchange))
                if dice.random() < 1 / 15 and (part := await begun(connection, dice.randint(1, 9000))) is not None:
                    sights[exchange] = sight(exchange, part, left=True)
                    break
                sights[exchange] = sight(exchange, await connection.answer())
                connection.bytes_read.clear()


@pytest.mark.parametrize("events", [30_000, long("EVENTS", 1_000_000)])
async def test_no_byte_is_lost_doubled_moved_damaged_or_crossed(events: int, tmp_path: Path) -> None:
    sights: dict[int, Sight] = {}
    # Faults and clients that leave keep some of the events back: there are more exchanges than would be needed.
    left = list(range(events * 4 // 3 // EVENTS))
    asked = len(left)
    async with upstreams(tmp_path, events, EVENTS, asked) as servers:
        timeouts = {"first_byte_s": 0.5, "chunk_s": 0.5}
        async with inside(servers.urls, tmp_path, timeouts=timeouts) as gateway:
            async with (
                killing(servers, Random(events), 0.2 if events < 100_000 else 0.4),
                asyncio.TaskGroup() as clients,
            ):
                for number in range(24):
                    clients.create_task(client(gateway.url, left, Random(number), sights))
            await gateway.at_rest()
            lines = await gateway.lines(asked)
    ends = tally(sights, servers.attempts)
    seen = sum(one.events for one in sights.values())
    made = sum(map(len, servers.attempts.values()))
    print(f"{asked} exchanges, {seen} events seen, {made} attempts, {servers.kills} kills, {dict(ends)}")
    assert sorted(sights) == list(range(asked))
    assert not (wrong := join(sights, servers.attempts, lines, kills=True)), (len(wrong), wrong[:5])
    assert seen >= events
    # The dice did throw every fault, and each was met in the middle of a stream; so was SIGKILL.
    assert {fault for fault, end in ends if end == "cut"} == {"killed", *FAULTS} - {"clean", "error event"}
    assert {end for _, end in ends} >= {"whole", "cut", "error", "left"}


def test_the_ledger_finds_what_is_amiss() -> None:
    """The books are worth nothing if they always agree."""
    stream = [event(7, 0, place, b"abc") for place in range(4)]
    assert read(7, b"".join(stream) + DONE) == (0, 4, DONE)
    amiss = {
        "lost": [*stream[:1], *stream[2:]],
        "doubled": [*stream[:2], *stream[1:]],
        "moved": [stream[0], stream[2], stream[1], stream[3]],
        "damaged": [stream[0], stream[1].replace(b"abc", b"abd"), *stream[2:]],
        "another's": [stream[0], event(8, 0, 1, b"abc"), *stream[2:]],
        "another attempt's": [stream[0], event(7, 1, 1, b"abc"), *stream[2:]],
    }
    for what, events in amiss.items():
        with pytest.raises(Tampered):
            pytest.fail(f"{what} is not noticed: {read(7, b''.join(events))}")
    assert read(7, stream[0] + b"x" + stream[1])[2] == b"x" + stream[1]
    line = {"request_id": "7", "outcome": "truncated", "attempts": 1, "bytes_out": 90, "error": "upstream_protocol"}
    seen = Sight("cut", 0, 3, 90, "upstream_protocol")
    sent = Attempt("closed", 9, least=3, sent=3)
    assert not join({7: seen}, {7: [sent]}, [line])
    assert join({7: seen}, {7: [Attempt("closed", 9, least=4, sent=4)]}, [line])  # an event was lost
    assert join({7: seen}, {7: [Attempt("clean", 3, least=3, sent=3)]}, [line])  # cut by nobody
    assert join({7: seen}, {7: [sent]}, [])
    assert join({7: seen}, {7: [sent]}, [line, line])
    assert join({7: seen}, {7: [sent]}, [line | {"outcome": "complete"}])
    assert join({7: seen}, {7: [sent]}, [line | {"bytes_out": 91}])
    assert join({7: seen}, {7: [sent, sent]}, [line])
    assert join({}, {7: [sent]}, [line])
    # Of a server that was killed it is known what had left it, and what it may have sent at most.
    for least, most, agrees in ((3, 3, True), (2, 5, True), (4, 5, False), (1, 2, False)):
        killed = Attempt("clean", 9, least=least, sent=most, is_over=False, was_killed=True)
        assert (join({7: seen}, {7: [killed]}, [line], kills=True) == []) is agrees
    survived = Attempt("clean", 9, least=2, sent=5, is_over=False)
    assert join({7: seen}, {7: [survived]}, [line], kills=True)  # cut by nobody


def test_the_book_knows_how_far_a_killed_server_came(tmp_path: Path) -> None:
    book = Book(tmp_path / "book", exchanges=2)
    fault, number = "", -1
    while fault != "clean":
        number += 1
        attempt, pieces = plan(1, 10, number, 0)
        fault = attempt.fault
    wire = b"".join(pieces)
    assert book.count(1) == 0
    for left in range(0, len(wire) + 1, 7):
        book.write(1, 0, Entry(5, len(wire), left, is_over=False))
        assert book.count(1) == 1 and book.count(0) == 0
        entry = Book(tmp_path / "book").read(1, 0)
        assert entry == Entry(5, len(wire), left, is_over=False)
        found = remembered(1, 10, number, 0, entry, was_killed=True)
        shown = decoded(wire[:left])
        assert (found.least, found.sent) == (shown.count(b"\n\n") - shown.count(DONE), attempt.events)
    book.close()


def decoded(wire: bytes) -> bytes:
    """As much of the body as a strict reader has of a response that breaks off."""
    parser = Decoder()
    feed = httptools.HttpResponseParser(parser).feed_data
    feed(wire)
    return bytes(parser.body)


class Decoder:
    def __init__(self) -> None:
        self.body = bytearray()

    def on_body(self, data: bytes) -> None:
        self.body += data
