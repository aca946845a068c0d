"""R17: a defect of ours that an exchange meets ends that exchange, once, at once, and no other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration
LOOPS = ("uvloop", "asyncio")

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
BODY = b'{"model":"demo","messages":[]}'
STREAM = faults.stream_bytes(faults.chat_events("one", "two", "three"))


async def ask(gateway: Inside) -> Answer:
    async with Downstream(gateway.url) as client, asyncio.timeout(5):
        await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
        return await client.answer()


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


# What no reader of JSON takes: each is an answer, and must be one at once.
ODD = {
    "nested lists": b'{"error":{"message":' + nested(100_000) + b"}}",
    "nested objects": b'{"error":{"message":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}}",
    "a number of 10,000 digits": b'{"error":{"code":' + b"1" * 10_000 + b"}}",
    "half a surrogate pair": b'{"error":{"message":"\\ud800 \\udfff"}}',
    "no UTF-8": b'{"error":{"message":"\xff\xfe"}}',
    "UTF-16": '{"error":{"message":"x"}}'.encode("utf-16"),
    "Infinity": b'{"error":{"code":Infinity,"status":NaN,"message":-Infinity}}',
    "a number": b'{"error":{"message":7,"type":[],"code":{}}}',
    "text": b'{"error":"x","code":"\\u0664\\u0660\\u0660"}',
    "half a document": b'{"error":{"message":"',
}


@pytest.mark.parametrize("step", [1 << 20, 4096])
@pytest.mark.parametrize("kind", ["document", "chunked", "stream"])
@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_error_under_a_200_is_an_answer_at_once(odd: str, kind: str, step: int, tmp_path: Path) -> None:
    body = ODD[odd]
    if kind == "document":
        wire = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    elif kind == "chunked":
        wire = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        wire += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        wire = faults.stream_bytes([b"data: " + body + b"\n\n"])
    async with FaultyUpstream(faults.dribble(wire, step)) as upstream, inside(upstream.url, tmp_path) as gateway:
        answer = await ask(gateway)
        await gateway.at_rest()
        (line,) = await gateway.lines(1)
    assert answer.is_complete
    # More than is held is passed on as it came, and UTF-16 begins like no error; all else is one.
    if kind == "stream" or (len(body) <= 64 * 1024 and odd != "UTF-16"):
        assert (answer.status, line["outcome"]) == (502, "upstream_failed")
        json.loads(answer.body)["error"]["message"].encode()


class Defect(Exception):
    """The exception of a defect of ours."""


def fails(*_: object) -> None:
    """A part of the gateway that fails whatever is asked of it."""
    raise Defect


@pytest.mark.parametrize("where", ["the request's head", "the response's end"])
async def test_a_defect_ends_the_exchange_that_meets_it(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client hears of the end, nothing is held, and the next one is served."""
    async with FaultyUpstream(faults.chat()) as upstream, inside(upstream.url, tmp_path) as gateway:
        relay = gateway.plane.relay
        target = gateway.plane.snapshot.routes.compiled_routes[0].destinations[0].balancer.targets[0]
        parts = target.write_whole, relay.fastpath
        if where == "the request's head":
            target.write_whole = fails
        else:
            relay.fastpath = object()
        first = await ask(gateway)
        await gateway.at_rest()
        assert first.status == (500 if where == "the request's head" else 200)
        assert "failed" in caplog.text
        target.write_whole, relay.fastpath = parts
        assert (await ask(gateway)).status == 200
        await gateway.at_rest()
        assert [line["status"] for line in await gateway.lines(2)] == [first.status, 200]


MALFORMED = {
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
    "a bad status": b"HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "only a 100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_answer_on_a_kept_connection_is_not_asked_for_twice(name: str, tmp_path: Path) -> None:
    """Only a connection that was closed without a byte of an answer was stale."""
    bad = faults.raw(MALFORMED[name], then_close=True)
    async with FaultyUpstream(faults.chat(), bad, faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, provider={"keepalive_s": 30.0}) as gateway:
            assert (await ask(gateway)).status == 200
            await gateway.at_rest()
            assert (await ask(gateway)).status == 502
            await gateway.at_rest()
            assert [request.connection for request in upstream.requests] == [0, 0]


async def test_a_kept_connection_that_closes_without_a_byte_is_stale(tmp_path: Path) -> None:
    closes = faults.raw(b"", then_close=True)
    async with FaultyUpstream(faults.chat(), closes, faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, provider={"keepalive_s": 30.0}) as gateway:
            assert (await ask(gateway)).status == 200
            await gateway.at_rest()
            assert (await ask(gateway)).status == 200
            assert [request.connection for request in upstream.requests] == [0, 0, 1]
            await gateway.at_rest()
