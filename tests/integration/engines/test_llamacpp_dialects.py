"""A real llama.cpp server asked in Anthropic's and the Responses API, through the gateway before its chat endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from integration.gateways import gateway
from upstreams.llamacpp import MODEL

pytestmark = [pytest.mark.integration, pytest.mark.peers]

HELLO: list[Any] = [{"role": "user", "content": "hello there, how are you?"}]
TOOL: Any = {"name": "get_weather", "description": "w", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def url(llamacpp_url: str) -> Iterator[str]:
    """A gateway that translates everything to chat completions."""
    with gateway(llamacpp_url, provider={"dialects": ["openai.chat"], "aliases": {"claude-*": MODEL}}) as server:
        yield server.url


def claude(url: str) -> anthropic.Anthropic:
    """A client of Anthropic's API."""
    return anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=30)


def test_a_message(url: str) -> None:
    with claude(url) as client:
        message = client.messages.create(model="claude-x", max_tokens=8, system="s", messages=HELLO)
    assert (message.role, message.stop_reason, message.model) == ("assistant", "max_tokens", "claude-x")
    assert message.usage.output_tokens == 8
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 20
    assert [block.type for block in message.content] == ["text"]


def test_a_stream_is_like_the_engines_own(url: str, llamacpp_url: str) -> None:
    shapes = []
    for address in (url, llamacpp_url):
        with claude(address) as client, client.messages.stream(model=MODEL, max_tokens=12, messages=HELLO) as stream:
            names = [event.type for event in stream if event.type not in ("text", "content_block_delta")]
            final = stream.get_final_message()
        shapes.append((names, final.role, final.stop_reason, [block.type for block in final.content]))
        assert final.usage.output_tokens == 12
    assert shapes[0] == shapes[1]


def test_a_conversation_with_tools(url: str) -> None:
    messages = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "get_weather", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]},
    ]
    with claude(url) as client:
        message = client.messages.create(model=MODEL, max_tokens=8, messages=messages)
    assert message.usage.output_tokens == 8


def test_tokens_are_counted(url: str) -> None:
    with claude(url) as client:
        assert client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens > 0


def test_responses(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=30) as client:
        response = client.responses.create(model=MODEL, input="hello", max_output_tokens=16)
        assert (response.status, response.object) == ("incomplete", "response")
        assert response.usage is not None
        assert response.usage.output_tokens == 16
        with client.responses.stream(model=MODEL, input="hello", max_output_tokens=16) as stream:
            names = [event.type for event in stream]
        assert names[:2] == ["response.created", "response.in_progress"]
        assert names[-1] == "response.incomplete"


def test_its_error_is_translated(url: str) -> None:
    long: list[Any] = [{"role": "user", "content": "x" * 20_000}]
    with claude(url) as client, pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(model=MODEL, max_tokens=8, messages=long)
    body: Any = refused.value.body
    assert body["error"]["message"].startswith("prompt is too long: ")


def test_models_are_listed_in_the_clients_shape(url: str) -> None:
    with claude(url) as client:
        listed = list(client.models.list())
        assert [(model.id, model.type) for model in listed] == [(MODEL, "model")]
        assert client.models.retrieve(MODEL).display_name == MODEL
