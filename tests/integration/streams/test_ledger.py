"""R1: whatever befalls upstreams, no byte of a stream is lost, doubled, moved, damaged or given to another, and the books agree."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import httptools
import pytest
from integration.inside import inside
from integration.ledgers import client, killing, upstreams
from integration.sizes import long
from upstreams.ledger import (
    DONE,
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
from upstreams.mortal import Book

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

EVENTS = 100  # of a stream, on average


@pytest.mark.parametrize("events", [30_000, long("EVENTS", 1_000_000)])
async def test_no_byte_is_lost_doubled_moved_damaged_or_crossed(events: int, tmp_path: Path) -> None:
    sights: dict[int, Sight] = {}
    # Faults and clients that leave keep some of the events back: there are more exchanges than would be needed.
    asked = events * 4 // 3 // EVENTS
    numbers = iter(range(asked))
    async with upstreams(tmp_path, events, EVENTS, asked) as servers:
        timeouts = {"first_byte_s": 0.5, "chunk_s": 0.5}
        async with inside(servers.urls, tmp_path, timeouts=timeouts) as gateway:
            async with (
                killing(servers, Random(events), 0.2 if events < 100_000 else 0.4),
                asyncio.TaskGroup() as clients,
            ):
                for number in range(24):
                    clients.create_task(client(gateway.url, numbers, Random(number), sights))
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
