"""Replies: a stage answers by itself, and the exchange ends like every other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.errors import Forbidden
from budgateway.exchange.exchange_cy import Exchange
from budgateway.exchange.reply import Reply
from budgateway.records import Allowance, LimitRule

pytestmark = pytest.mark.integration

JSON = [("Content-Type", "application/json")]
LINES = b"content-type: application/json\r\nx-made-by: stage\r\n"
EVENTS = b"content-type: text/event-stream\r\n"
BODY = b'{"model":"demo","messages":[]}'


class Answering:
    """A stage that answers each exchange with what `make` returns."""

    def __init__(self, make: Callable[[Exchange], Reply | None]) -> None:
        self._make = make
        self.seen = 0

    def decide(self, x: Exchange) -> Any:
        """Leave a reply in the exchange, or none."""
        self.seen += 1
        x.reply = self._make(x)


class Waiting:
    """A stage whose answer comes later."""

    def __init__(self, reply: Reply | Exception) -> None:
        self._reply = reply

    def decide(self, x: Exchange) -> Any:
        """Return what must be waited for."""
        return self._wait(x)

    async def _wait(self, x: Exchange) -> None:
        await asyncio.sleep(0)
        if isinstance(self._reply, Exception):
            raise self._reply
        x.reply = self._reply


@asynccontextmanager
async def staged(log: Path, *stages: Any, **options: Any) -> AsyncIterator[tuple[Inside, FaultyUpstream]]:
    """A gateway whose route has these stages, and the upstream behind it."""
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, log, path="/v1/*", **options) as gateway,
    ):
        gateway.plane.snapshot.routes.compiled_routes[0].stages = stages
        yield gateway, upstream
        await gateway.at_rest()


async def test_a_whole_reply(tmp_path: Path) -> None:
    rules = (LimitRule("day", ("address",), Allowance(requests_per_day=9, burst=9)),)
    stage = Answering(lambda x: Reply(200, LINES, b'{"a": 1}'))
    async with staged(tmp_path, stage, limit_rules=rules) as (gateway, upstream):
        async with Downstream(gateway.url) as client:
            for left in (8, 7, 6):
                answer = await client.ask("POST", "/v1/chat/completions", BODY, JSON)
                assert (answer.status, answer.json()) == (200, {"a": 1})
                assert answer.header("x-made-by") == "stage"
                assert answer.header("content-length") == "8"
                assert answer.header("x-request-id")
                assert answer.header("rate-limit-remaining") == str(left)
        assert stage.seen == 3
        assert not upstream.requests
        for line in await gateway.lines(3):
            assert (line["status"], line["outcome"], line["bytes_out"], line.get("upstream")) == (
                200,
                "complete",
                8,
                None,
            )


async def test_a_stage_that_leaves_no_reply_lets_the_request_go_on(tmp_path: Path) -> None:
    first, second = Answering(lambda x: None), Answering(lambda x: Reply(404, LINES, b"{}"))
    async with staged(tmp_path, first) as (gateway, upstream), Downstream(gateway.url) as client:
        assert (await client.ask("POST", "/v1/chat/completions", BODY, JSON)).status == 200
        gateway.plane.snapshot.routes.compiled_routes[0].stages = (first, second, first)
        assert (await client.ask("POST", "/v1/chat/completions", BODY, JSON)).status == 404
        assert (first.seen, second.seen, len(upstream.requests)) == (2, 1, 1)


async def test_a_reply_in_pieces(tmp_path: Path) -> None:
    stage = Answering(lambda x: Reply(200, EVENTS, pieces=iter([b"data: 1\n\n", b"", b"data: [DONE]\n\n"])))
    async with staged(tmp_path, stage) as (gateway, _), Downstream(gateway.url) as client:
        answer = await client.ask("POST", "/v1/chat/completions", BODY, JSON)
        assert answer.header("transfer-encoding") == "chunked"
        assert answer.body == b"data: 1\n\ndata: [DONE]\n\n"
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["bytes_out"]) == ("complete", 23)


async def test_pieces_wait_for_a_slow_reader(tmp_path: Path) -> None:
    made = 0

    def pieces(x: Exchange) -> Iterator[bytes]:
        nonlocal made
        for _ in range(4096):
            made += 1
            yield b"x" * 4096

    async with staged(tmp_path, Answering(lambda x: Reply(200, EVENTS, pieces=pieces(x)))) as (gateway, _):
        async with Downstream(gateway.url) as client:
            client.read_no_more()
            await client.send(request_bytes("a", "POST", "/v1/chat/completions", BODY, JSON))
            await gateway.until(lambda: made > 0)
            await turns(gateway)
            assert made < 4096
            client.read_on()
            answer = await client.answer()
            assert len(answer.body) == 4096 * 4096
            assert made == 4096


async def test_a_client_that_leaves_in_the_middle(tmp_path: Path) -> None:
    async with staged(tmp_path, Answering(lambda x: Reply(200, EVENTS, pieces=iter([b"x" * 65536] * 4096)))) as (
        gateway,
        _,
    ):
        async with Downstream(gateway.url) as client:
            client.receive_at_most(4096)
            client.read_no_more()
            await client.send(request_bytes("a", "POST", "/v1/chat/completions", BODY, JSON))
            await gateway.until(lambda: gateway.in_flight == 1)
            await turns(gateway)
            client.reset()
        (line,) = await gateway.lines(1)
        assert line["outcome"] == "client_gone"


async def test_pieces_that_fail(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        raise RuntimeError("no more")

    async with staged(tmp_path, Answering(lambda x: Reply(200, EVENTS, pieces=pieces()))) as (gateway, _):
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes("a", "POST", "/v1/chat/completions", BODY, JSON))
            await client.closed()
            assert b"data: 1\n\n" in client.bytes_read
            assert not client.bytes_read.endswith(b"0\r\n\r\n")
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["error"]) == ("truncated", "internal")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_reply_without_a_body(status: int, tmp_path: Path) -> None:
    async with staged(tmp_path, Answering(lambda x: Reply(status))) as (gateway, _), Downstream(gateway.url) as client:
        answer = await client.ask("POST", "/v1/chat/completions", BODY, JSON)
        assert (answer.status, answer.body) == (status, b"")
        assert (await client.ask("POST", "/v1/chat/completions", BODY, JSON)).status == status


async def test_head_gets_the_length_and_no_body(tmp_path: Path) -> None:
    async with staged(tmp_path, Answering(lambda x: Reply(200, LINES, b"{}"))) as (gateway, _):
        async with Downstream(gateway.url) as client:
            await client.send(b"HEAD /v1/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            await client.closed()
            assert b"content-length: 2\r\n" in client.bytes_read
            assert client.bytes_read.endswith(b"\r\n\r\n")


async def test_http_10_gets_pieces_until_the_end(tmp_path: Path) -> None:
    async with staged(tmp_path, Answering(lambda x: Reply(200, EVENTS, pieces=iter([b"a", b"b"])))) as (gateway, _):
        async with Downstream(gateway.url) as client:
            await client.send(b"GET /v1/x HTTP/1.0\r\nhost: a\r\n\r\n")
            await client.closed()
            assert client.bytes_read.endswith(b"\r\n\r\nab")
            assert b"chunked" not in client.bytes_read


async def test_a_reply_that_must_be_waited_for(tmp_path: Path) -> None:
    never = Answering(lambda x: None)
    async with staged(tmp_path, Waiting(Reply(200, LINES, b"{}")), never) as (gateway, upstream):
        async with Downstream(gateway.url) as client:
            assert (await client.ask("POST", "/v1/chat/completions", BODY, JSON)).body == b"{}"
        assert (never.seen, len(upstream.requests)) == (0, 0)
        gateway.plane.snapshot.routes.compiled_routes[0].stages = (Waiting(Forbidden("no")),)
        async with Downstream(gateway.url) as client:
            assert (await client.ask("POST", "/v1/chat/completions", BODY, JSON)).status == 403


async def test_a_broken_stage_is_that_exchanges_alone(tmp_path: Path) -> None:
    def broken(x: Exchange) -> Reply:
        raise ZeroDivisionError

    async with staged(tmp_path, Answering(broken)) as (gateway, _), Downstream(gateway.url) as client:
        assert (await client.ask("POST", "/v1/chat/completions", BODY, JSON)).status == 500
        gateway.plane.snapshot.routes.compiled_routes[0].stages = ()
        assert (await client.ask("POST", "/v1/chat/completions", BODY, JSON)).status == 200


async def turns(gateway: Inside, count: int = 50) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)
