"""Taps: a stage copies the answer that the client gets, whatever becomes of the exchange."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

import budgateway
from budgateway.errors import Forbidden
from budgateway.exchange.cached_plan import NOTHING, Part
from budgateway.exchange.exchange_cy import CLIENT_GONE, COMPLETE, REFUSED, TRUNCATED, UPSTREAM_FAILED, Exchange
from budgateway.exchange.reply import Reply
from budgateway.exchange.tap import Tap
from budgateway.records import Hedge, Retries

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
PLAIN = b'{"model":"demo","messages":[]}'
STREAM = b'{"model":"demo","messages":[],"stream":true}'


class Copy(Tap):
    """A tap that keeps what it gets."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, bytes]] = []
        self.pieces: list[bytes] = []
        self.outcomes: list[int] = []

    def head(self, status: int, lines: bytes) -> None:
        """Keep the head, which comes first."""
        assert not self.pieces
        assert not self.outcomes
        self.heads.append((status, lines))

    def data(self, piece: bytes) -> None:
        """Keep a piece."""
        assert piece
        assert self.heads
        assert not self.outcomes
        self.pieces.append(piece)

    def end(self, outcome: int) -> None:
        """Keep the outcome."""
        self.outcomes.append(outcome)

    @property
    def body(self) -> bytes:
        """Return the body so far."""
        return b"".join(self.pieces)


class Tapping:
    """A stage that taps each exchange, and lets all of them go on."""

    def __init__(self, *taps: Tap) -> None:
        self.taps = list(taps)
        self.copies: list[Copy] = []

    def decide(self, x: Exchange) -> None:
        """Set a tap."""
        if not self.taps:
            self.copies.append(Copy())
        x.tap = self.taps[0] if self.taps else self.copies[-1]


@asynccontextmanager
async def tapped(
    log: Path, *answers: Any, more: tuple[Any, ...] = (), **options: Any
) -> AsyncIterator[tuple[Inside, Tapping, list[FaultyUpstream]]]:
    """Run a gateway whose route has a tapping stage and `more`, in front of an upstream for each answer."""
    stage = Tapping()
    upstreams = [FaultyUpstream(answer) for answer in answers]
    for upstream in upstreams:
        await upstream.__aenter__()
    try:
        async with inside([one.url for one in upstreams], log, path="/v1/*", **options) as gateway:
            gateway.plane.snapshot.routes.compiled_routes[0].stages = (stage, *more)
            yield gateway, stage, upstreams
            await gateway.at_rest()
    finally:
        for upstream in upstreams:
            await upstream.__aexit__(None, None, None)


async def ask(gateway: Inside, body: bytes = PLAIN, method: str = "POST") -> Answer:
    """Return the answer to one request on a connection of its own."""
    async with Downstream(gateway.url) as client:
        return await client.ask(method, CHAT, body, JSON)


def check(copy: Copy, answer: Answer, outcome: int) -> None:
    """Compare what a tap got with what the client got."""
    ((status, lines),) = copy.heads
    assert status == answer.status
    assert lines.endswith(b"\r\n")
    names = [line.partition(b":")[0].decode() for line in lines.split(b"\r\n")[:-1]]
    assert [name.lower() for name in names] == [name.lower() for name, _ in answer.headers]
    assert copy.body == bytes(answer.body)
    assert copy.outcomes == [outcome]


DOCUMENT = faults.chat_bytes()
LONG = faults.json_bytes({"choices": [{"message": {"content": "x" * 300_000}}]})

WHOLE = {
    "a document": (PLAIN, faults.raw(DOCUMENT)),
    "a document, byte by byte": (PLAIN, faults.dribble(DOCUMENT)),
    "a long document": (PLAIN, faults.raw(LONG)),
    "a document that ends with its connection": (PLAIN, faults.until_close(b'{"choices": []}')),
    "a stream": (STREAM, faults.stream()),
    "a stream, byte by byte": (STREAM, faults.dribble(faults.stream_bytes())),
    "a stream in one read": (STREAM, faults.raw(faults.stream_bytes())),
    "an upstream's error": (PLAIN, faults.status(404)),
}


@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer(name: str, tmp_path: Path) -> None:
    body, answer = WHOLE[name]
    async with tapped(tmp_path, answer) as (gateway, stage, _):
        got = await ask(gateway, body)
        await gateway.at_rest()
        (copy,) = stage.copies
        check(copy, got, COMPLETE)
        assert copy.body


async def test_several_exchanges_of_one_connection(tmp_path: Path) -> None:
    async with tapped(tmp_path, faults.chat()) as (gateway, stage, _), Downstream(gateway.url) as client:
        answers = [await client.ask("POST", CHAT, PLAIN, JSON) for _ in range(3)]
        await gateway.at_rest()
        for copy, answer in zip(stage.copies, answers, strict=True):
            check(copy, answer, COMPLETE)


async def test_an_answer_to_a_head_request_has_no_body(tmp_path: Path) -> None:
    async with tapped(tmp_path, faults.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n")) as (gateway, stage, _):
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "HEAD", "/v1/files/a", b"", []))
            await gateway.until(lambda: bool(stage.copies and stage.copies[0].outcomes))
        (copy,) = stage.copies
        ((status, lines),) = copy.heads
        assert (status, copy.pieces, copy.outcomes) == (200, [], [COMPLETE])
        assert b"content-length: 17\r\n" in lines


async def test_an_http_10_client_gets_a_stream_without_chunks(tmp_path: Path) -> None:
    async with tapped(tmp_path, faults.stream()) as (gateway, stage, _):
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, STREAM, JSON).replace(b"HTTP/1.1", b"HTTP/1.0"))
            await client.closed()
            seen = bytes(client.partial.body)
        (copy,) = stage.copies
        assert copy.body == seen
        assert copy.body.endswith(b"data: [DONE]\n\n")
        assert copy.outcomes == [COMPLETE]


async def test_an_error_of_the_gateway(tmp_path: Path) -> None:
    async with tapped(tmp_path, faults.garbage()) as (gateway, stage, _):
        got = await ask(gateway)
        await gateway.at_rest()
        assert got.status == 502
        (copy,) = stage.copies
        check(copy, got, UPSTREAM_FAILED)


async def test_an_error_instead_of_a_stream_that_was_held(tmp_path: Path) -> None:
    # The head of the stream was held, chunked; the error has a length.
    async with tapped(tmp_path, faults.error_event_first()) as (gateway, stage, _):
        got = await ask(gateway, STREAM)
        await gateway.at_rest()
        assert got.status == 502
        check(stage.copies[0], got, UPSTREAM_FAILED)


async def test_a_refusal_behind_the_stage(tmp_path: Path) -> None:
    class Refusing:
        def decide(self, x: Exchange) -> None:
            raise Forbidden("no")

    async with tapped(tmp_path, faults.chat(), more=(Refusing(),)) as (gateway, stage, _):
        got = await ask(gateway)
        await gateway.at_rest()
        assert got.status == 403
        check(stage.copies[0], got, REFUSED)


async def test_of_several_attempts_only_the_answer_is_seen(tmp_path: Path) -> None:
    retries = {"retries": Retries(max_attempts=3)}
    answers = (faults.status(503), faults.status(503), faults.status(503))
    async with tapped(tmp_path, *answers, route=retries) as (gateway, stage, upstreams):
        for upstream in upstreams:
            upstream.script(faults.status(503), faults.chat("at last"))
        for _ in range(2):
            got = await ask(gateway)
            await gateway.at_rest()
            check(stage.copies[-1], got, COMPLETE)
        assert sum(len(one.requests) for one in upstreams) > 2


@pytest.mark.parametrize("body", [PLAIN, STREAM])
async def test_of_two_attempts_at_a_time_only_the_answer_is_seen(body: bytes, tmp_path: Path) -> None:
    answer = faults.stream() if body is STREAM else faults.chat("from the second")
    hedged = {"retries": Retries(hedge=Hedge(after_s=0.05))}
    async with tapped(tmp_path, faults.silent(), answer, route=hedged) as (gateway, stage, upstreams):
        got = await ask(gateway, body)
        await gateway.at_rest()
        assert got.status == 200
        (copy,) = stage.copies
        check(copy, got, COMPLETE)
        assert [len(upstream.requests) for upstream in upstreams] == [1, 1]


async def test_a_stream_that_its_upstream_cuts(tmp_path: Path) -> None:
    wire = faults.stream_bytes()
    async with tapped(tmp_path, faults.cut(wire, len(wire) - 40)) as (gateway, stage, _):
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, STREAM, JSON))
            await client.closed()
            seen = bytes(client.partial.body)
        await gateway.at_rest()
        (copy,) = stage.copies
        assert copy.outcomes == [TRUNCATED]
        assert copy.body == seen
        assert b'"error"' in copy.body


async def test_a_client_that_leaves_in_the_middle(tmp_path: Path) -> None:
    async with tapped(tmp_path, faults.endless()) as (gateway, stage, _):
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, STREAM, JSON))
            await client.until_body()
            client.reset()
        await gateway.at_rest()
        (copy,) = stage.copies
        assert copy.heads
        assert copy.body
        assert copy.outcomes == [CLIENT_GONE]


async def test_a_client_that_leaves_before_the_answer(tmp_path: Path) -> None:
    async with tapped(tmp_path, faults.silent()) as (gateway, stage, _):
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, PLAIN, JSON))
            await gateway.until(lambda: bool(stage.copies))
            client.reset()
        await gateway.at_rest()
        (copy,) = stage.copies
        assert (copy.heads, copy.pieces, copy.outcomes) == ([], [], [CLIENT_GONE])


async def test_comments_that_keep_a_stream_open_are_left_out(tmp_path: Path) -> None:
    wire = faults.stream_bytes()
    keeping = {"stream_keepalive_s": 0.25}
    async with tapped(tmp_path, faults.stall(wire, len(wire) - 60), route=keeping) as (gateway, stage, _):
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, STREAM, JSON))
            await gateway.until(lambda: b": keep-alive" in client.partial.body)
            client.reset()
        await gateway.at_rest()
        assert stage.copies[0].body
        assert b"keep-alive" not in stage.copies[0].body


def pieces_that_fail() -> Iterator[bytes]:
    yield b"data: 1\n\n"
    raise ValueError("no more")


EVENTS = b"content-type: text/event-stream\r\n"
REPLIES = {
    "whole": (lambda: Reply(200, b"content-type: application/json\r\n", b'{"a": 1}'), COMPLETE),
    "in pieces": (lambda: Reply(200, EVENTS, pieces=iter([b"data: 1\n\n", b"data: [DONE]\n\n"])), COMPLETE),
    "broken off": (lambda: Reply(200, EVENTS, pieces=pieces_that_fail()), TRUNCATED),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_a_reply_of_our_own(name: str, tmp_path: Path) -> None:
    make, outcome = REPLIES[name]

    class Answering:
        def decide(self, x: Exchange) -> None:
            x.reply = make()

    async with tapped(tmp_path, faults.chat(), more=(Answering(),)) as (gateway, stage, _):
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, PLAIN, JSON))
            await gateway.until(lambda: bool(stage.copies and stage.copies[0].outcomes))
            if outcome == COMPLETE:
                check(stage.copies[0], await client.answer(), outcome)
        assert stage.copies[0].outcomes == [outcome]
        assert stage.copies[0].body.startswith((b"data: 1\n\n", b'{"a": 1}'))


@pytest.mark.parametrize("body", [PLAIN, STREAM])
async def test_a_copy_can_be_served_again(body: bytes, tmp_path: Path) -> None:
    class Replaying:
        kept: Copy | None = None

        def decide(self, x: Exchange) -> None:
            if self.kept is not None:
                ((status, lines),) = self.kept.heads
                x.reply = Reply(status, lines, pieces=iter(self.kept.pieces))

    replaying = Replaying()
    answer = faults.stream() if body is STREAM else faults.chat()
    async with tapped(tmp_path, answer, more=(replaying,)) as (gateway, stage, upstreams):
        first = await ask(gateway, body)
        await gateway.at_rest()
        replaying.kept = stage.copies[0]
        second = await ask(gateway, body)
        assert len(upstreams[0].requests) == 1
        assert (second.status, bytes(second.body)) == (first.status, bytes(first.body))
        assert second.header("content-type") == first.header("content-type")
        assert second.header("x-request-id") != first.header("x-request-id")
        names = [name.lower() for name, _ in second.headers]
        assert len(names) == len(set(names))


class Broken(Copy):
    """A tap with a defect."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def head(self, status: int, lines: bytes) -> None:
        """Fail, or keep the head."""
        if self._where == "head":
            raise ValueError("broken")
        super().head(status, lines)

    def data(self, piece: bytes) -> None:
        """Fail, or keep the piece."""
        if self._where == "data":
            raise ValueError("broken")
        super().data(piece)

    def end(self, outcome: int) -> None:
        """Keep the outcome, or fail."""
        super().end(outcome)
        if self._where == "end":
            raise ValueError("broken")


@pytest.mark.parametrize("where", ["head", "data", "end"])
async def test_a_tap_with_a_defect_does_not_reach_the_client(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with tapped(tmp_path, faults.stream()) as (gateway, stage, _):
        broken = Broken(where)
        stage.taps = [broken]
        got = await ask(gateway, STREAM)
        await gateway.at_rest()
        assert (got.status, got.is_complete) == (200, True)
        assert broken.outcomes == [COMPLETE if where == "end" else TRUNCATED]
        assert "could not be" in caplog.text


async def test_a_tap_keeps_requests_off_the_fast_path(tmp_path: Path) -> None:
    class Contributing(Tapping):
        def cached_plan(self, x: Exchange) -> Part | None:
            return NOTHING

    async with tapped(tmp_path, faults.chat()) as (gateway, _, _):
        contributing = Contributing()
        gateway.plane.snapshot.routes.compiled_routes[0].stages = (contributing,)
        async with Downstream(gateway.url) as client:
            for number in range(1, 6):
                await client.ask("POST", CHAT, PLAIN, JSON)
                assert len(contributing.copies) == number


def test_answers_have_one_way_out() -> None:
    source = (Path(budgateway.__file__).parent / "proxy" / "relay_cy.py").read_text()
    writes = re.findall(r"^.*(?:downstream|connection)\.write\(.*$", source, re.MULTILINE)
    # The way out, comments that keep a stream open, and a refusal without an exchange.
    assert len(writes) == 3, writes
