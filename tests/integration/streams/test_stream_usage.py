"""Streams whose clients do not ask for their usage are counted by it, and look as if nobody had asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from downstream import Answer, Downstream
from integration.admission.test_limits import tokens_left
from integration.gateways import gateway
from integration.inside import inside
from integration.upstreams.test_fallback import TOML
from integration.upstreams.test_shaping import shaped
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received, chunk, head

from budgateway import Gateway, load_config
from budgateway.records import Allowance, Hedge, LimitRule, Mirror, Retries

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
WORDS = ("one", "two", "three")
PLAIN = b"".join(faults.chat_events(*WORDS, usage=False))
TOLD = b"".join(faults.chat_events(*WORDS))
ASKING = {"include_usage": True}


def obedient() -> faults.Answer:
    """A model server as OpenAI's: the usage is told to who asks for it."""

    async def answer(peer: Peer, request: Received) -> None:
        asked = (json.loads(request.body).get("stream_options") or {}).get("include_usage") is True
        await peer.send(faults.stream_bytes(faults.chat_events(*WORDS, usage=asked)))

    return answer


def body(**more: Any) -> bytes:
    return json.dumps({"model": "demo", "stream": True, "messages": []} | more).encode()


async def ask(url: str, wish: bytes, path: str = CHAT, headers: list[tuple[str, str]] = JSON) -> Answer:
    async with Downstream(url) as client:
        return await client.ask("POST", path, wish, headers)


def tokens(line: dict[str, Any]) -> tuple[int, int, str]:
    return line["tokens_in"], line["tokens_out"], line.get("usage", "reported")


@pytest.mark.parametrize("options", [None, {"x": 1, "include_usage": False}, {"include_usage": None}])
async def test_who_does_not_ask_is_counted_all_the_same(options: Any, tmp_path: Path) -> None:
    async with FaultyUpstream(obedient()) as upstream, inside(upstream.url, tmp_path) as gateway:
        plain = body()
        answers = [await ask(gateway.url, plain), await ask(gateway.url, body(stream_options=options))]
        lines = await gateway.lines(2)
    assert [bytes(answer.body) for answer in answers] == [PLAIN, PLAIN]
    assert all(answer.is_complete and answer.header("transfer-encoding") == "chunked" for answer in answers)
    assert [tokens(line) for line in lines] == [(3, 3, "reported")] * 2
    assert [line["bytes_out"] for line in lines] == [len(PLAIN)] * 2
    told = [json.loads(request.body) for request in upstream.requests]
    assert [one.pop("stream_options") for one in told] == [ASKING, (options or {}) | ASKING]
    assert told == [json.loads(plain)] * 2
    assert upstream.requests[0].body == plain.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)


async def test_who_asks_sees_every_byte(tmp_path: Path) -> None:
    wish = body(stream_options={"x": 1, "include_usage": True})
    async with FaultyUpstream(obedient()) as upstream, inside(upstream.url, tmp_path) as gateway:
        answer = await ask(gateway.url, wish)
        (line,) = await gateway.lines(1)
    assert (bytes(answer.body), tokens(line)) == (TOLD, (3, 3, "reported"))
    assert [request.body for request in upstream.requests] == [wish]


@pytest.mark.parametrize(
    ("wish", "path", "headers"),
    [
        (body(stream=False), CHAT, JSON),
        (body(stream="true"), CHAT, JSON),
        (body(stream_options=[]), CHAT, JSON),
        (body(stream_options={}), CHAT, JSON),
        (body(stream_options={"continuous_usage_stats": True}), CHAT, JSON),
        (body(stream_options={"include_usage": 1}), CHAT, JSON),
        (b'{"model":"m","stream":true,"stream_options":{"include_usage":false,"include_usage":false}}', CHAT, JSON),
        (b"[1]", CHAT, JSON),
        (body(), "/v1/responses", JSON),
        (body(), "/v1/messages", JSON),
        (body(), "/v1/embeddings", JSON),
        (body(), CHAT, [("Content-Type", "text/plain")]),
    ],
)
async def test_what_is_not_to_be_asked_leaves_as_it_came(
    wish: bytes, path: str, headers: list[tuple[str, str]], tmp_path: Path
) -> None:
    async with FaultyUpstream(faults.stream(faults.chat_events(*WORDS))) as upstream:
        async with inside(upstream.url, tmp_path, provider={"kind": "vllm"}) as gateway:
            answer = await ask(gateway.url, wish, path, headers)
    # Usage that comes although nobody asked is the client's.
    assert bytes(answer.body) == TOLD
    assert [request.body for request in upstream.requests] == [wish]


async def test_a_provider_may_leave_it_alone(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.stream(faults.chat_events(*WORDS))) as upstream:
        async with inside(upstream.url, tmp_path, provider={"stream_usage": False}) as gateway:
            answer = await ask(gateway.url, body())
    assert (bytes(answer.body), upstream.requests[0].body) == (TOLD, body())


async def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    async with FaultyUpstream(obedient()) as upstream, inside(upstream.url, tmp_path) as gateway:
        answer = await ask(gateway.url, b'{"model":"m","stream":true,"stream_options":{},"stream_options":null}')
    assert answer.status == 400
    assert "'stream_options' twice" in answer.json()["error"]["message"]
    assert not upstream.requests


@pytest.mark.parametrize("hold_bytes", [0, 64 << 10])
@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("aliases", [(), (("demo", "big"),)])
async def test_however_it_is_cut(hold_bytes: int, size: int, aliases: Any, tmp_path: Path) -> None:
    filtered = b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
    wire = faults.stream_bytes([filtered, b": c\n\n", *faults.chat_events(*WORDS)])
    provider = {"hold_bytes": hold_bytes, "aliases": aliases}
    async with FaultyUpstream(faults.dribble(wire, size)) as upstream:
        async with inside(upstream.url, tmp_path, provider=provider) as gateway:
            answer = await ask(gateway.url, body())
            (line,) = await gateway.lines(1)
    assert bytes(answer.body) == filtered + b": c\n\n" + PLAIN
    assert (tokens(line), line["outcome"]) == ((3, 3, "reported"), "complete")
    assert json.loads(upstream.requests[0].body)["model"] == (aliases[0][1] if aliases else "demo")


async def test_a_client_of_http_1_0_does_not_see_it_either(tmp_path: Path) -> None:
    async with FaultyUpstream(obedient()) as upstream, inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            wish = body()
            lines = f"POST {CHAT} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(wish)}\r\n\r\n"
            await client.send(lines.encode() + wish)
            answer = await client.answer()
    assert (bytes(answer.body), answer.header("transfer-encoding")) == (PLAIN, None)


async def test_a_stream_of_a_known_length_passes_whole(tmp_path: Path) -> None:
    wire = head(200, [faults.EVENT_STREAM, ("content-length", str(len(TOLD)))], reason="OK") + TOLD
    async with FaultyUpstream(faults.raw(wire), faults.dribble(wire, 100)) as upstream:
        async with inside(upstream.url, tmp_path) as gateway:
            answers = [await ask(gateway.url, body()) for _ in range(2)]
            lines = await gateway.lines(2)
    assert [bytes(answer.body) for answer in answers] == [TOLD, TOLD]
    assert [tokens(line) for line in lines] == [(3, 3, "reported")] * 2


async def test_a_stream_of_nothing_but_its_usage_is_empty(tmp_path: Path) -> None:
    """Without the question it would have been `[DONE]` alone."""
    *_, usage, done = faults.chat_events()
    nothing = faults.stream([usage, done])
    async with FaultyUpstream(nothing) as one, FaultyUpstream(nothing, obedient()) as other:
        async with inside([one.url, other.url], tmp_path) as gateway:
            assert (await ask(gateway.url, body())).status == 502
            other.script(obedient())
            answer = await ask(gateway.url, body())
            assert bytes(answer.body) == PLAIN
            told = {request.body for upstream in (one, other) for request in upstream.requests}
    # Every attempt asks.
    assert len(told) == 1
    assert json.loads(told.pop())["stream_options"] == ASKING


async def test_usage_before_the_words_is_no_beginning(tmp_path: Path) -> None:
    gate = asyncio.Event()
    *words, usage, done = faults.chat_events(*WORDS)

    async def early(peer: Peer, request: Received) -> None:
        await peer.send(head(200, [faults.EVENT_STREAM, faults.CHUNKED], reason="OK") + chunk(usage))
        await gate.wait()
        for event in (*words, usage, done, b""):
            await peer.send(chunk(event))

    async with FaultyUpstream(early) as upstream, inside(upstream.url, tmp_path) as gateway:
        asking = asyncio.create_task(ask(gateway.url, body()))
        await upstream.until(lambda upstream: upstream.sent_bytes > len(usage))
        await asyncio.sleep(0.05)
        assert not asking.done()
        gate.set()
        assert bytes((await asking).body) == PLAIN


async def test_a_hedge_asks_too(tmp_path: Path) -> None:
    route = {"retries": Retries(hedge=Hedge(after_s=0.05))}
    async with FaultyUpstream(faults.silent()) as one, FaultyUpstream(obedient()) as two:
        async with inside([one.url, two.url], tmp_path, route=route) as gateway:
            answer = await ask(gateway.url, body())
            await gateway.at_rest()
            (line,) = await gateway.lines(1)
            assert (bytes(answer.body), tokens(line)) == (PLAIN, (3, 3, "reported"))
            assert one.requests[0].body == two.requests[0].body


async def test_copies_are_as_the_client_wrote_them(tmp_path: Path) -> None:
    async with FaultyUpstream(obedient()) as one, FaultyUpstream(obedient()) as two:
        async with shaped(tmp_path, {"a": [one], "b": [two]}, mirror=Mirror("b")) as gateway:
            answer = await ask(gateway.url, body())
            await two.until(lambda two: len(two.requests) == 1)
            assert bytes(answer.body) == PLAIN
            assert json.loads(one.requests[0].body)["stream_options"] == ASKING
            assert two.requests[0].body == body()


@pytest.mark.parametrize("asks", [(True, False), (False, True)])
async def test_each_provider_is_asked_as_it_says(asks: tuple[bool, bool], tmp_path: Path) -> None:
    """A request to one provider does not affect the other's response."""
    told = faults.stream(faults.chat_events(*WORDS))
    async with FaultyUpstream(faults.status(500)) as first, FaultyUpstream(told) as spare:
        log = tmp_path / "access.log"
        file = tmp_path / "gateway.toml"
        text = (TOML % (first.url, spare.url)).replace('access_log = "off"', f'access_log = "{log}"')
        for upstream, is_asked in zip((first, spare), asks, strict=True):
            line = f'endpoints = ["{upstream.url}"]\n'
            text = text.replace(line, f"{line}stream_usage = {json.dumps(is_asked)}\n")
        file.write_text(text)
        settings = await asyncio.to_thread(load_config, file, environ={})
        async with Gateway(settings) as gateway:
            answer = await ask(gateway.url, body())
        bodies = [json.loads(upstream.requests[0].body) for upstream in (first, spare)]
    assert ["stream_options" in one for one in bodies] == list(asks)
    assert [one["model"] for one in bodies] == ["demo", "small"]
    assert bytes(answer.body) == (PLAIN if asks[1] else TOLD)
    assert tokens(json.loads(log.read_text())) == (3, 3, "reported")


async def test_limits_are_settled_by_it(tmp_path: Path) -> None:
    rules = (LimitRule(name="r", by=("user",), allowance=Allowance(tokens_per_day=10_000)),)
    wish = body(messages=[{"role": "user", "content": "x" * 4000}], max_tokens=500)
    async with FaultyUpstream(obedient()) as upstream, inside(upstream.url, tmp_path, limit_rules=rules) as gateway:
        await ask(gateway.url, wish)
        # 6 were used; by the bytes it would have been more than 1000.
        assert await tokens_left(gateway, upstream) in (9_994, 9_995)


async def test_a_client_that_leaves_with_the_last_word_has_used_what_is_told(tmp_path: Path) -> None:
    """Many do not wait for `[DONE]`. The usage came with the last word; that nothing follows is not known."""
    *words, finish, usage, _ = faults.chat_events(*WORDS)

    async def unended(peer: Peer, request: Received) -> None:
        await peer.send(head(200, [faults.EVENT_STREAM, faults.CHUNKED], reason="OK") + chunk(b"".join(words)))
        await peer.send(chunk(finish + usage))
        await peer.gone()

    async with FaultyUpstream(unended) as upstream, inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            asking = asyncio.create_task(client.ask("POST", CHAT, body(), JSON))
            await client.until_body(len(b"".join([*words, finish])))
            assert bytes(client.partial.body) == b"".join([*words, finish])
            asking.cancel()
        await gateway.at_rest()
        (line,) = await gateway.lines(1)
    assert (line["outcome"], tokens(line)) == ("client_gone", (3, 3, "reported"))


@contextmanager
def logged(url: str, log: Path, **options: Any) -> Iterator[str]:
    with gateway(url, settings={"access_log": str(log)}, **options) as server:
        yield server.url


def test_the_official_client_and_the_demo_server(demo_url: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    hello: list[Any] = [{"role": "user", "content": "hello there, how are you today?"}]
    options: Any = ASKING
    with logged(demo_url, log) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=10) as client:
            chats = client.chat.completions
            whole = chats.create(model="demo", messages=hello).usage
            assert whole is not None
            with chats.create(model="demo", messages=hello, stream=True) as stream:
                assert all(chunk.choices and chunk.usage is None for chunk in stream)
            with chats.create(model="demo", messages=hello, stream=True, stream_options=options) as stream:
                *_, last = stream
            assert (last.choices, last.usage) == ([], whole)
            text = client.completions.create(model="demo", prompt="once upon a time").usage
            assert text is not None
            with client.completions.create(model="demo", prompt="once upon a time", stream=True) as told:
                assert all(chunk.choices for chunk in told)
    lines = [json.loads(line) for line in log.read_text().splitlines() if "completions" in line]
    chat, completion = ((usage.prompt_tokens, usage.completion_tokens, "reported") for usage in (whole, text))
    assert [tokens(line) for line in lines] == [chat, chat, chat, completion, completion]
    assert [line["stream"] for line in lines] == [False, True, True, False, True]
