"""Streams that break off, and streams that are silent: what stands between the last byte of the upstream's and the end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received, chunk, head

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
JSON = [("Content-Type", "application/json")]
BODY = b'{"model":"demo","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
HEAD = head(200, [faults.EVENT_STREAM, faults.CHUNKED], reason="OK")
EVENTS = faults.chat_events("one", "two", "three")


def named(kind: str, **members: Any) -> bytes:
    """An event of the dialects that name theirs."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind} | members).encode())


async def ask(gateway: Inside, path: str = CHAT) -> Answer:
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes(client.host, "POST", path, BODY, JSON))
        return await client.answer()


async def line_of(gateway: Inside) -> dict[str, Any]:
    await gateway.at_rest()
    (line,) = await gateway.lines(1)
    return line


class Later:
    """An answer in two writes; the second comes when the test says so."""

    def __init__(self, first: bytes, second: bytes) -> None:
        self.go_on = asyncio.Event()
        self._first = first
        self._second = second

    async def __call__(self, peer: Peer, request: Received) -> None:
        await peer.send(self._first)
        await self.go_on.wait()
        await peer.send(self._second)


# ---------------------------------------------------------------- breaking off

# llhttp is the stricter one about extensions, the native scan about the rest.
BAD = {
    "size": b"zz\r\n",
    "line end": b"5\nhello",
    "sign": b"-1\r\n",
    "extension": b'5;"\x80"\r\nhello\r\n',
    "trailer": b"0\r\na b\r\n",
}


@pytest.mark.parametrize("bad", BAD)
async def test_events_in_front_of_a_bad_byte_are_not_lost_with_it(bad: str, tmp_path: Path) -> None:
    later = Later(HEAD + chunk(EVENTS[0]), chunk(EVENTS[1]) + chunk(EVENTS[2] + EVENTS[3][:9]) + BAD[bad])
    async with FaultyUpstream(later) as upstream, inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
            await client.until_body(len(EVENTS[0]))
            later.go_on.set()
            answer = await client.answer()
        assert not answer.is_complete
        whole = b"".join(EVENTS[:3])
        assert bytes(answer.body).startswith(whole)
        last = bytes(answer.body)[len(whole) :]
        assert last.startswith(b'data: {"error"') and last.count(b"\n\n") == 1
        assert json.loads(last[6:])["error"]["code"] == "upstream_protocol"
        line = await line_of(gateway)
        assert (line["outcome"], line["error"]) == ("truncated", "upstream_protocol")
        assert line["bytes_out"] == len(answer.body)


async def test_an_answer_that_nobody_heard_of_is_asked_for_again(tmp_path: Path) -> None:
    """Broken in its first read, behind whole events: another upstream's is better than the beginning of this one."""
    bad = faults.raw(HEAD + chunk(EVENTS[0]) + chunk(EVENTS[1]) + b"zz\r\n")
    async with FaultyUpstream(bad) as one, FaultyUpstream(faults.raw(faults.stream_bytes(EVENTS))) as two:
        async with inside([one.url, two.url], tmp_path) as gateway:
            answers = [await ask(gateway) for _ in range(2)]
            assert {(answer.status, answer.is_complete, bytes(answer.body)) for answer in answers} == {
                (200, True, b"".join(EVENTS))
            }
            assert len(one.requests) >= 1
            await gateway.at_rest()


SPEAKS_ALL = {"kind": "vllm"}  # nothing is translated
DIALECTS = {
    CHAT: EVENTS[0],
    RESPONSES: named("response.created", response={"id": "r", "status": "in_progress"}, sequence_number=0),
    MESSAGES: named("message_start", message={"id": "m", "role": "assistant", "content": []}),
}


async def test_a_cut_of_a_stored_response_is_told_as_one_of_a_new_one(tmp_path: Path) -> None:
    wire = HEAD + chunk(DIALECTS[RESPONSES])
    async with FaultyUpstream(faults.cut(wire, len(wire))) as upstream, inside(upstream.url, tmp_path) as gateway:
        for path in (f"{RESPONSES}/resp_1?stream=true", f"/team{RESPONSES}/resp_1?stream=true"):
            async with Downstream(gateway.url) as client:
                await client.send(request_bytes("a", "GET", path))
                answer = await client.answer()
            name, data, *_ = bytes(answer.body)[len(DIALECTS[RESPONSES]) :].split(b"\n")
            assert name == b"event: error"
            told = json.loads(data.removeprefix(b"data: "))
            assert (told["type"], told["code"]) == ("error", "upstream_protocol")


@pytest.mark.parametrize("path", DIALECTS)
async def test_a_cut_is_told_in_the_dialect_of_the_path(path: str, tmp_path: Path) -> None:
    wire = HEAD + chunk(DIALECTS[path])
    async with (
        FaultyUpstream(faults.cut(wire, len(wire))) as upstream,
        inside(upstream.url, tmp_path, provider=SPEAKS_ALL) as gateway,
    ):
        answer = await ask(gateway, path)
        assert not answer.is_complete
        assert bytes(answer.body).startswith(DIALECTS[path])
        *names, data, end, rest = bytes(answer.body)[len(DIALECTS[path]) :].split(b"\n")
        assert (end, rest) == (b"", b"")
        told = json.loads(data.removeprefix(b"data: "))
        line = await line_of(gateway)
        assert (line["outcome"], line["bytes_out"]) == ("truncated", len(answer.body))
        if path == CHAT:
            assert names == []
            assert (told["error"]["code"], told["error"]["type"]) == ("upstream_protocol", "server_error")
        else:
            assert names == [b"event: error"]
            assert told["type"] == "error"
        if path == RESPONSES:
            # OpenAI's ResponseErrorEvent: flat.
            assert set(told) >= {"type", "code", "message", "param", "sequence_number"}
            assert told["code"] == "upstream_protocol"
        elif path == MESSAGES:
            assert told["error"]["type"] == "api_error"
            assert "closed the connection mid-response" in told["error"]["message"]


@pytest.mark.parametrize("path", DIALECTS)
async def test_an_answer_that_fails_whole_is_told_in_the_dialect_of_the_path(path: str, tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.cut(HEAD, 10)) as upstream,
        inside(upstream.url, tmp_path, provider=SPEAKS_ALL) as gateway,
    ):
        answer = await ask(gateway, path)
        assert (answer.status, answer.is_complete) == (502, True)
        told = answer.json()
        if path == MESSAGES:
            assert (told["type"], told["error"]["type"]) == ("error", "api_error")
        else:
            assert told["error"]["code"] == "upstream_protocol"


# ---------------------------------------------------------------- silence

COMMENT = b": keep-alive\n\n"


async def test_a_silent_stream_is_kept_alive_by_comments(tmp_path: Path) -> None:
    first, rest = HEAD + chunk(EVENTS[0] + EVENTS[1][:7]), chunk(EVENTS[1][7:]) + b"".join(map(chunk, EVENTS[2:]))
    later = Later(first, rest + chunk(b""))
    route = {"stream_keepalive_s": 0.2}
    async with FaultyUpstream(later) as upstream, inside(upstream.url, tmp_path, route=route) as gateway:
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
            await client.until_body(len(EVENTS[0]) + 2 * len(COMMENT))
            later.go_on.set()
            answer = await client.answer()
        body = bytes(answer.body)
        assert answer.is_complete
        # Between events, never inside one, and every event as it was.
        assert body.startswith(EVENTS[0] + 2 * COMMENT)
        assert body.replace(COMMENT, b"") == b"".join(EVENTS)
        line = await line_of(gateway)
        assert (line["outcome"], line["bytes_out"]) == ("complete", len(body))


async def test_comments_begin_before_the_first_event_and_do_not_stretch_its_deadline(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.stall(HEAD, len(HEAD))) as upstream:
        route, timeouts = {"stream_keepalive_s": 0.2}, {"first_byte_s": 1.0, "chunk_s": 1.0}
        async with inside(upstream.url, tmp_path, route=route, timeouts=timeouts) as gateway:
            answer = await ask(gateway)
            body = bytes(answer.body)
            assert (answer.status, answer.is_complete) == (200, False)
            assert body.startswith(COMMENT)
            assert body.replace(COMMENT, b"").startswith(b'data: {"error"')
            line = await line_of(gateway)
            assert (line["outcome"], line["error"]) == ("truncated", "upstream_timeout")
            assert line["bytes_out"] == len(body)
            assert line["duration_ms"] < 20_000


async def test_without_the_key_nothing_is_said(tmp_path: Path) -> None:
    later = Later(HEAD + chunk(EVENTS[0]), b"".join(map(chunk, EVENTS[1:])) + chunk(b""))
    async with FaultyUpstream(later) as upstream, inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
            await client.until_body(len(EVENTS[0]))
            await asyncio.sleep(0.6)  # two sweeps
            later.go_on.set()
            assert bytes((await client.answer()).body) == b"".join(EVENTS)


# ---------------------------------------------------------------- a drain


async def test_a_drain_keeps_what_a_head_has_promised(tmp_path: Path) -> None:
    """A head that left before the drain did not say that it is the last one: who believes it is answered."""
    later = Later(HEAD + chunk(EVENTS[0]), b"".join(map(chunk, EVENTS[1:])) + chunk(b""))
    async with FaultyUpstream(later) as upstream, inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes(client.host, "POST", CHAT, BODY, JSON))
            await client.until_body(len(EVENTS[0]))
            draining = asyncio.create_task(gateway.plane.drain(20.0))
            await gateway.until(lambda: gateway.plane.server_state.draining)
            later.go_on.set()
            upstream.script(faults.chat("more"))
            first = await client.answer()
            assert (bytes(first.body), first.header("connection")) == (b"".join(EVENTS), None)
            second = await client.ask("POST", CHAT, BODY, JSON)
            assert (second.status, second.header("connection")) == (200, "close")
            await draining
