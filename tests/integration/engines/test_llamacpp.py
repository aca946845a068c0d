"""A real llama.cpp server behind the gateway, asked with the official SDK."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from integration.conftest import FRONTS, in_front
from integration.gateways import gateway, gateway_async
from integration.processes import running
from upstreams import llamacpp
from upstreams.llamacpp import MODEL

pytestmark = [pytest.mark.integration, pytest.mark.peers]

HELLO: list[Any] = [{"role": "user", "content": "hello there, how are you?"}]


@pytest.fixture(scope="module", params=FRONTS)
def url(request: pytest.FixtureRequest, llamacpp_url: str) -> Iterator[str]:
    with in_front(request.param, llamacpp_url, "openai") as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
async def aclient(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client


def test_chat_reports_usage_with_cached_tokens(client: openai.OpenAI) -> None:
    wish: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 8, "extra_body": {"cache_prompt": True, "id_slot": 0}}
    client.chat.completions.create(**wish)
    usage = client.chat.completions.create(**wish).usage
    assert usage is not None
    assert usage.completion_tokens == 8
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) > 0


async def test_chat_streamed(aclient: openai.AsyncOpenAI) -> None:
    options: Any = {"include_usage": True}
    async with await aclient.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=16, stream=True, stream_options=options
    ) as stream:
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


def test_a_stream_whose_client_does_not_ask_is_counted_by_what_it_used(llamacpp_url: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with gateway(llamacpp_url, settings={"access_log": str(log)}) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
            wish: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 16}
            usage = client.chat.completions.create(**wish).usage
            with client.chat.completions.create(**wish, stream=True) as stream:
                chunks = list(stream)
            with client.completions.create(model=MODEL, prompt="once upon", max_tokens=4, stream=True) as stream:
                texts = list(stream)
    assert usage is not None
    assert all(chunk.choices for chunk in (*chunks, *texts))
    *_, whole, chat, text = [json.loads(line) for line in log.read_text().splitlines()]
    assert (chat["tokens_in"], chat["tokens_out"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert (chat["tokens_in"], chat["tokens_out"]) == (whole["tokens_in"], whole["tokens_out"])
    assert (text["stream"], text["tokens_out"]) == (True, 4)
    assert not any("usage" in line for line in (whole, chat, text))


def test_the_same_seed_says_the_same_whole_and_streamed(client: openai.OpenAI) -> None:
    wish: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "seed": 7, "temperature": 0}
    whole = client.chat.completions.create(**wish).choices[0].message.content
    with client.chat.completions.create(**wish, stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="once upon", max_tokens=4)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_its_error_arrives(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model=MODEL, input="this server was not started for embeddings")
    assert caught.value.status_code == 501


# ---------------------------------------------------------------- numbers

PREFILL_S = 0.1
ROUNDS = 10
WORD = re.compile(rb'"content":"[^"]')


@pytest.fixture(scope="module")
def thoughtful_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A llama.cpp server that reads some thousand tokens a second."""
    if llamacpp.MISSING:
        pytest.skip(llamacpp.ABSENT)
    model = tmp_path_factory.mktemp("llamacpp") / "slow.gguf"
    with running([sys.executable, llamacpp.__file__, model, "slow"]) as server:
        server.wait_for_url()
        server.wait_for("/health")
        yield server.url


def first_token(url: str, number: int, tokens: int) -> float:
    """Seconds from the first byte sent to the first event with a word in it; no two prompts begin alike."""
    prompt = f"{number} {'x' * tokens}"
    wish = {"model": MODEL, "max_tokens": 24, "stream": True, "cache_prompt": False}
    body = json.dumps(wish | {"messages": [{"role": "user", "content": prompt}]}).encode()
    address = urlsplit(url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nX-Request-Id: n{number}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), 30) as client:
        began = time.perf_counter()
        client.sendall(head.encode() + body)
        seen = b""
        while not WORD.search(seen):
            piece = client.recv(65536)
            assert piece, seen
            seen += piece
        took = time.perf_counter() - began
        while b"[DONE]" not in seen:
            seen += client.recv(65536)
    return took


class Tap:
    """A relay between gateway and engine that times what `first_token` times: from a request's arrival to its first word."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.engine = address.hostname, address.port
        self.took: list[float] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, engine = await asyncio.open_connection(*self.engine)
        began, seen = 0.0, b""

        async def requests() -> None:
            nonlocal began, seen
            while piece := await reader.read(65536):
                if piece.startswith(b"POST "):
                    began, seen = time.perf_counter(), b""
                engine.write(piece)
            engine.close()

        async def words() -> None:
            nonlocal seen
            while piece := await answers.read(65536):
                had_word = WORD.search(seen)
                seen += piece
                if not had_word and WORD.search(seen):
                    self.took.append(time.perf_counter() - began)
                writer.write(piece)
            writer.close()

        await asyncio.gather(requests(), words())


async def test_the_time_to_the_first_token_is_the_clients(thoughtful_url: str, tmp_path: Path) -> None:
    """The engine reads its prompt for 100 ms or so. What the access line says lies between what passed at the gateway's
    upstream side and what the client waited, and the gateway's own share contains none of the engine's time.

    Each of the three intervals contains the one before it, however busy the machine is.
    """
    tokens = 200
    while await asyncio.to_thread(first_token, thoughtful_url, tokens, tokens) < PREFILL_S and tokens < 1500:
        tokens = tokens * 5 // 4
    log = tmp_path / "access.log"
    tap = Tap(thoughtful_url)
    waited = []
    async with await asyncio.start_server(tap, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with gateway_async(f"http://{host}:{port}", settings={"access_log": str(log)}) as front:
            for number in range(ROUNDS):
                waited.append(1000 * await asyncio.to_thread(first_token, front.url, number, tokens))
    told = {line["request_id"]: line for line in map(json.loads, log.read_text().splitlines())}
    ttft = [told[f"n{number}"]["ttft_ms"] for number in range(ROUNDS)]
    overhead = sorted(told[f"n{number}"]["overhead_us"] for number in range(ROUNDS))
    engine = [1000 * took for took in tap.took]
    print(
        f"{tokens} tokens: engine {median(engine):.1f} ms, ttft {median(ttft):.1f} ms, client {median(waited):.1f} ms, "
        f"overhead {median(overhead):.0f} us ({overhead[0]:.0f} to {overhead[-1]:.0f})"
    )
    for inner, told_ms, outer in zip(engine, ttft, waited, strict=True):
        assert inner <= told_ms <= outer
    assert 1000 * median(waited) > 4 * median(overhead)
