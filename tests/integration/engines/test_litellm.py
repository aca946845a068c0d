"""A real LiteLLM proxy behind the gateway, asked with the official SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from integration.conftest import FRONTS, in_front
from integration.gateways import CLIENT_KEY
from upstreams.litellm import KEY, READY

pytestmark = [pytest.mark.integration, pytest.mark.peers, pytest.mark.timeout(120)]

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
SAID = 'You said: "hello there". I am the demo model: I only repeat, but I stream, count tokens and never tire.'


@pytest.fixture(scope="module", params=FRONTS)
def base_url_and_key(request: pytest.FixtureRequest, litellm_url: str) -> Iterator[tuple[str, str]]:
    """Straight, the client must know LiteLLM's key; through the gateway the gateway does, and the client must not."""
    front: str = request.param
    provider = {"api_key": "env:LITELLM_KEY", "health_check_path": READY}
    with in_front(front, litellm_url, "litellm", provider=provider, env={"LITELLM_KEY": KEY}) as url:
        yield f"{url}/v1", KEY if front == "direct" else CLIENT_KEY


@pytest.fixture
def client(base_url_and_key: tuple[str, str]) -> Iterator[openai.OpenAI]:
    base_url, key = base_url_and_key
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO)
    assert answer.choices[0].message.content == SAID
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 10


def test_chat_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="demo", messages=HELLO, stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == SAID


def test_tools_streamed(client: openai.OpenAI) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools: list[Any] = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    ask: list[Any] = [{"role": "user", "content": "weather in Paris"}]
    with client.chat.completions.create(model="demo", messages=ask, tools=tools, stream=True) as stream:
        deltas = [call for chunk in stream if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    arguments = "".join(call.function.arguments or "" for call in deltas if call.function)
    assert json.loads(arguments) == {"city": "Paris"}


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="demo-embed", input=["one", "two"], encoding_format="float")
    assert [len(item.embedding) for item in answer.data] == [8, 8]


def test_models(client: openai.OpenAI) -> None:
    assert {"demo", "demo-embed"} <= {model.id for model in client.models.list()}


def test_unknown_model_is_an_error_of_litellm(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="nobody", messages=HELLO)
