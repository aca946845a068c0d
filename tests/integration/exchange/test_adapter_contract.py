"""The contract of adapters, tried by one that translates to a toy dialect: requests, answers, streams and errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream
from upstreams.wire import chunked, head, sse

from budgateway.errors import BadRequest, GatewayError, UpstreamError
from budgateway.exchange.exchange_cy import Exchange
from budgateway.kinds import KINDS, Kind
from budgateway.native import HeadEdits
from budgateway.providers.registry import ADAPTERS
from budgateway.providers.translating import Translating
from budgateway.records import Fallback, Hedge, Mirror, Retries

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json"), ("User-Agent", "tester"), ("Accept", "text/html")]
EVENT_STREAM = ("content-type", "text/event-stream")
CHUNKED = ("transfer-encoding", "chunked")


class Toy(Translating):
    """Translates chat completions to a toy dialect, in which everything has another name and place."""

    def request(self, x: Exchange) -> None:
        """Send the last message, to a path that names the model."""
        chat = json.loads(self.source(x))
        if "logprobs" in chat:
            raise BadRequest("the toy knows no logprobs", param="logprobs")
        x.send_body = json.dumps({"ask": chat["messages"][-1]["content"]}).encode()
        x.head_edits = HeadEdits(
            f"/toys/{self.model_of(x)}?flow={x.streams:d}",
            [("toy-version", "1"), ("accept", "application/json")],
            ["user-agent"],
        )

    def answer(self, x: Exchange, body: bytes) -> bytes:
        """Translate a document, or an error."""
        toy = json.loads(body)
        if x.status >= 400:
            return json.dumps({"error": {"message": toy["oops"], "code": None}}).encode()
        if "said" not in toy:
            raise UpstreamError("the toy said nothing")
        return json.dumps({"choices": [{"message": {"content": toy["said"]}}]}).encode()

    def events(self, x: Exchange) -> Stream:
        """Translate a stream."""
        return Stream()

    def error(self, x: Exchange, error: GatewayError) -> bytes:
        """Put a mark into the gateway's own errors."""
        return super().error(x, error).replace(b'"message": "', b'"message": "toy: ', 1)


class Stream:
    """Renames the member of each event, and ends with an event of its own."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> bytes:
        """Translate whole events, and keep the rest."""
        *whole, self._pending = (self._pending + data).split(b"\n\n")
        return b"".join(self._event(event) for event in whole)

    def finish(self) -> bytes:
        """Write the closing events."""
        assert self._pending == b""
        return b'data: {"last": true}\n\ndata: [DONE]\n\n'

    def _event(self, event: bytes) -> bytes:
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            return b""
        toy = json.loads(data)
        return b"data: %b\n\n" % json.dumps({"delta": toy["piece"]}).encode() if "piece" in toy else b""


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
SAID = {"said": "hello", "usage": USAGE}
EVENTS = sse('{"piece": "one"}', '{"piece": "two"}', json.dumps({"usage": USAGE}), "[DONE]")
STREAM = head(200, [EVENT_STREAM, CHUNKED], reason="OK") + chunked(EVENTS)
TRANSLATED = b'data: {"delta": "one"}\n\ndata: {"delta": "two"}\n\ndata: {"last": true}\n\ndata: [DONE]\n\n'
TOY_KIND = Kind(name="toy", precedence=9, dialects=("toy",))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the toy's kind and adapter known."""
    monkeypatch.setitem(KINDS, "toy", TOY_KIND)
    monkeypatch.setitem(ADAPTERS, ("openai.chat", "toy"), Toy)


@asynccontextmanager
async def toys(
    log: Path, *scripts: Sequence[Answer], **options: Any
) -> AsyncIterator[tuple[Inside, list[FaultyUpstream]]]:
    """A gateway before upstreams of the toy dialect, one for each script."""
    upstreams = [FaultyUpstream(*script) for script in scripts]
    provider = {"kind": "toy"} | options.pop("provider", {})
    for upstream in upstreams:
        await upstream.__aenter__()
    try:
        urls = [upstream.url for upstream in upstreams]
        async with inside(urls, log, path="/v1/*", provider=provider, **options) as gateway:
            yield gateway, upstreams
            await gateway.at_rest()
    finally:
        for upstream in upstreams:
            await upstream.__aexit__(None, None, None)


def body_of(**members: Any) -> bytes:
    """A chat completion's request."""
    return json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}], **members}).encode()


async def ask(gateway: Inside, path: str = CHAT, **members: Any) -> Any:
    """Ask once, over a connection of its own."""
    async with Downstream(gateway.url) as client:
        return await client.ask("POST", path, body_of(**members), JSON)


async def test_a_request_goes_to_its_own_place_in_its_own_words(tmp_path: Path) -> None:
    provider = {"aliases": (("demo", "bear"),)}
    async with toys(tmp_path, [faults.raw(faults.json_bytes(SAID))], provider=provider) as (gateway, [upstream]):
        await ask(gateway)
        (request,) = upstream.requests
        headers = dict(request.headers)
        assert (request.method, request.target) == ("POST", "/toys/bear?flow=0")
        assert request.body == b'{"ask": "hi"}'
        assert (headers["toy-version"], headers["accept"]) == ("1", "application/json")
        assert "user-agent" not in headers
        assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_a_document_is_translated(size: int, tmp_path: Path) -> None:
    wire = faults.json_bytes(SAID, 200, ("x-toy", "1"), ("cache-control", "private"))
    answer = faults.dribble(wire, size) if size else faults.raw(wire)
    async with toys(tmp_path, [answer]) as (gateway, _):
        answered = await ask(gateway)
        assert answered.json() == {"choices": [{"message": {"content": "hello"}}]}
        assert answered.header("content-type") == "application/json"
        assert answered.header("x-toy") == "1"
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 3, 2)
        assert line["bytes_out"] == len(answered.body)


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_a_stream_is_translated(size: int, tmp_path: Path) -> None:
    answer = faults.dribble(STREAM, size) if size else faults.raw(STREAM)
    async with toys(tmp_path, [answer]) as (gateway, [upstream]):
        answered = await ask(gateway, stream=True)
        assert upstream.requests[0].target == "/toys/demo?flow=1"
        assert bytes(answered.body) == TRANSLATED
        assert answered.header("content-type") == "text/event-stream; charset=utf-8"
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 3, 2)
        assert line["bytes_out"] == len(TRANSLATED)


async def test_a_stream_with_a_length_is_translated(tmp_path: Path) -> None:
    body = b"".join(EVENTS)
    wire = head(200, [EVENT_STREAM, ("content-length", str(len(body)))], reason="OK") + body
    for answer in (faults.raw(wire), faults.dribble(wire)):
        async with toys(tmp_path, [answer]) as (gateway, _):
            assert bytes((await ask(gateway, stream=True)).body) == TRANSLATED


@pytest.mark.parametrize("cut", [len(STREAM) - 30, len(STREAM) - 5])
async def test_a_stream_that_breaks_off_gets_no_end(cut: int, tmp_path: Path) -> None:
    async with toys(tmp_path, [faults.cut(STREAM, cut)]) as (gateway, _):
        answered = await ask(gateway, stream=True)
        assert not answered.is_complete
        assert b"last" not in answered.body
        *_, event, end = bytes(answered.body).split(b"\n\n")
        assert end == b""
        assert json.loads(event.removeprefix(b"data: "))["error"]["message"].startswith("toy: upstream p ")
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["error"]) == ("truncated", "upstream_protocol")


async def test_an_error_of_the_upstream_is_translated(tmp_path: Path) -> None:
    wire = faults.json_bytes({"oops": "no such bear"}, 404)
    for answer in (faults.raw(wire), faults.dribble(wire)):
        async with toys(tmp_path, [answer]) as (gateway, _):
            answered = await ask(gateway)
            assert (answered.status, answered.json()["error"]["message"]) == (404, "no such bear")


async def test_an_error_of_the_gateway_is_the_adapters_to_write(tmp_path: Path) -> None:
    async with toys(tmp_path, [faults.cut(STREAM, 0)]) as (gateway, _):
        answered = await ask(gateway)
        assert (answered.status, answered.json()["error"]["code"]) == (502, "upstream_protocol")
        assert answered.json()["error"]["message"].startswith("toy: ")


async def test_what_the_dialect_has_no_form_for_is_refused(tmp_path: Path) -> None:
    async with toys(tmp_path, [faults.raw(faults.json_bytes(SAID))]) as (gateway, [upstream]):
        answered = await ask(gateway, logprobs=True)
        assert (answered.status, answered.json()["error"]["param"]) == (400, "logprobs")
        async with Downstream(gateway.url) as client:
            answered = await client.ask("POST", CHAT, b"hi", [("Content-Type", "text/plain")])
            assert answered.status == 415
        assert not upstream.requests


async def test_only_its_own_dialect_is_translated(tmp_path: Path) -> None:
    async with toys(tmp_path, [faults.echo()]) as (gateway, _):
        seen = (await ask(gateway, "/v1/embeddings")).json()
        assert (seen["target"], seen["body"]) == ("/v1/embeddings", body_of().decode())


@pytest.mark.parametrize(
    "bad", [faults.status(503), faults.cut(STREAM, 0), faults.raw(faults.json_bytes({"error": {}}))]
)
async def test_a_retry_sends_the_same_again(bad: Answer, tmp_path: Path) -> None:
    good = faults.raw(faults.json_bytes(SAID))
    async with toys(tmp_path, [bad], [good]) as (gateway, upstreams):
        for _ in range(2):
            assert (await ask(gateway)).json()["choices"]
        requests = [request for upstream in upstreams for request in upstream.requests]
        assert len(requests) >= 3
        assert {(request.target, request.body) for request in requests} == {("/toys/demo?flow=0", b'{"ask": "hi"}')}
        assert all(dict(request.headers)["toy-version"] == "1" for request in requests)


@pytest.mark.parametrize("size", [0, 1])
async def test_an_answer_that_makes_no_sense_is_asked_for_elsewhere(size: int, tmp_path: Path) -> None:
    wire = faults.json_bytes({"mumbled": "x"})
    bad = faults.dribble(wire, size) if size else faults.raw(wire)
    async with toys(tmp_path, [bad], [faults.raw(faults.json_bytes(SAID))]) as (gateway, upstreams):
        for _ in range(2):
            assert (await ask(gateway)).json()["choices"]
        assert all(upstream.requests for upstream in upstreams)
    async with toys(tmp_path, [bad]) as (gateway, _):
        answered = await ask(gateway)
        assert (answered.status, answered.json()["error"]["code"]) == (502, "upstream_error")


async def test_a_hedge_sends_the_same(tmp_path: Path) -> None:
    route = {"retries": Retries(hedge=Hedge(after_s=0.02))}
    good = faults.raw(STREAM)
    async with toys(tmp_path, [faults.silent()], [good], route=route) as (gateway, upstreams):
        for _ in range(2):
            assert bytes((await ask(gateway, stream=True)).body) == TRANSLATED
        assert {request.target for upstream in upstreams for request in upstream.requests} == {"/toys/demo?flow=1"}


def with_fallback(*kinds: str) -> dict[str, Any]:
    """A route that falls back to providers of these kinds, in order."""
    return {"retries": Retries(fallbacks=tuple(Fallback(f"/{kind}") for kind in kinds), fallback_on=("error", "5xx"))}


async def test_a_fallback_may_speak_another_dialect(tmp_path: Path) -> None:
    route = with_fallback("other")
    async with (
        FaultyUpstream(faults.chat("from the other")) as other,
        toys(tmp_path, [faults.status(500)], route=route, beside={"/other": other.url}) as (gateway, _),
    ):
        answered = (await ask(gateway)).json()
        assert answered["choices"][0]["message"]["content"] == "from the other"
        (request,) = other.requests
        headers = dict(request.headers)
        assert (request.target, request.body) == (CHAT, body_of())
        assert (headers["user-agent"], headers["accept"]) == ("tester", "text/html")
        assert "toy-version" not in headers


async def test_a_fallback_to_the_toy_is_translated(tmp_path: Path) -> None:
    route = with_fallback("toy")
    async with (
        FaultyUpstream(faults.raw(STREAM)) as toy,
        FaultyUpstream(faults.status(500)) as upstream,
        inside(
            upstream.url, tmp_path, path="/v1/*", route=route, beside={"/toy": toy.url}, kinds={"/toy": "toy"}
        ) as gateway,
    ):
        assert bytes((await ask(gateway, stream=True)).body) == TRANSLATED
        # What the fallback cannot represent stays with the first one's answer.
        assert (await ask(gateway, logprobs=True)).status == 500
        assert len(toy.requests) == 1
        await gateway.at_rest()


async def test_a_copy_for_a_mirror_is_translated(tmp_path: Path) -> None:
    route = {"mirror": Mirror("/toy")}
    async with (
        FaultyUpstream(faults.raw(faults.json_bytes(SAID))) as toy,
        FaultyUpstream(faults.chat()) as upstream,
        inside(
            upstream.url, tmp_path, path="/v1/*", route=route, beside={"/toy": toy.url}, kinds={"/toy": "toy"}
        ) as gateway,
    ):
        assert (await ask(gateway)).status == 200
        await gateway.until(lambda: bool(toy.requests))
        (request,) = toy.requests
        assert (request.target, request.body) == ("/toys/demo?flow=0", b'{"ask": "hi"}')
        assert dict(request.headers)["x-budgateway-mirror"] == "1"
        assert upstream.requests[0].target == CHAT


class BodyOnly(Toy):
    """An adapter that changes nothing but bodies."""

    def request(self, x: Exchange) -> None:
        """Leave target and lines alone."""
        super().request(x)
        x.head_edits = None


@pytest.mark.parametrize("adapter", [Toy, BodyOnly])
async def test_nothing_of_it_is_served_by_the_fast_path(
    adapter: type[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADAPTERS, ("openai.chat", "toy"), adapter)
    async with toys(tmp_path, [faults.raw(faults.json_bytes(SAID))]) as (gateway, [upstream]):
        assert gateway.plane.fastpath is not None
        async with Downstream(gateway.url) as client:
            for number in range(1, 6):
                await client.send(request_bytes("a", "POST", CHAT, body_of(), JSON))
                assert (await client.answer()).json()["choices"]
                assert len(upstream.requests) == number
        assert not gateway.plane.fastpath.native.served()
        assert {request.body for request in upstream.requests} == {b'{"ask": "hi"}'}
