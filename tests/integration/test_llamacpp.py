"""A real llama.cpp server behind the gateway, asked with the official SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from integration.conftest import FRONTS, in_front
from integration.gateways import gateway
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
