"""The Anthropic SDK on an upstream that speaks Chat Completions: documents, streams, tools, errors, usage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from integration.dialects.dialogues import CITY, HELLO, anthropics, deltas, document, piece, sent, streamed
from upstreams import faults

from budgateway.records import Allowance, LimitRule
from budgateway.records import TranslationSettings as Said

pytestmark = pytest.mark.integration

TOOL = {"name": "get_weather", "description": "The weather of a place", "input_schema": CITY}


@pytest.mark.parametrize("size", [0, 1])
async def test_a_document(size: int, tmp_path: Path) -> None:
    async with anthropics(tmp_path, sent(document({"content": "hi \u00e9"}), size)) as (client, upstream, gateway):
        message = await client.messages.create(model="demo", max_tokens=9, system="be kind", messages=HELLO)
        assert [block.model_dump() for block in message.content] == [
            {"type": "text", "text": "hi \u00e9", "citations": None}
        ]
        assert (message.model, message.role, message.stop_reason) == ("demo", "assistant", "end_turn")
        usage = message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (7, 4, 5)
        (request,) = upstream.requests
        assert request.target == "/v1/chat/completions"
        assert json.loads(request.body) == {
            "model": "demo",
            "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}],
            "max_tokens": 9,
        }
        assert not any(name.startswith("anthropic") for name, _ in request.headers)
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 11, 5)


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_a_stream(size: int, tmp_path: Path) -> None:
    events = deltas({"role": "assistant", "content": ""}, {"content": "one "}, {"content": "two"})
    async with anthropics(tmp_path, sent(streamed(events), size)) as (client, upstream, gateway):
        async with client.messages.stream(model="demo", max_tokens=9, messages=HELLO) as stream:
            texts = [text async for text in stream.text_stream]
            message = await stream.get_final_message()
        assert texts == ["one ", "two"]
        assert message.stop_reason == "end_turn"
        assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 5)
        told = json.loads(upstream.requests[0].body)
        assert (told["stream"], told["stream_options"]) == (True, {"include_usage": True})
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["stream"], line["tokens_in"], line["tokens_out"]) == ("complete", True, 11, 5)


@pytest.mark.parametrize("size", [0, 1])
async def test_parallel_tool_calls_that_arrive_mixed(size: int, tmp_path: Path) -> None:
    events = deltas(
        {"reasoning_content": "let me see"},
        {"content": "I look."},
        piece(0, name="get_weather", arguments=""),
        piece(1, name="get_weather", arguments='{"ci'),
        piece(0, arguments='{"city": "Ber'),
        piece(1, arguments='ty": "Rome"}'),
        piece(0, arguments='lin"}'),
        finish="stop",
    )
    async with anthropics(tmp_path, sent(streamed(events), size)) as (client, upstream, _):
        options: Any = {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
        async with client.messages.stream(model="demo", max_tokens=9, messages=HELLO, **options) as stream:
            message = await stream.get_final_message()
        assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
        thought, _, *calls = [block.model_dump() for block in message.content]
        assert (thought["thinking"], thought["signature"]) == ("let me see", "bgw1.p")
        assert [(call["id"], call["name"], call["input"]) for call in calls] == [
            ("call_0", "get_weather", {"city": "Berlin"}),
            ("call_1", "get_weather", {"city": "Rome"}),
        ]
        assert message.stop_reason == "tool_use"
        told = json.loads(upstream.requests[0].body)
        assert told["tools"] == [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "The weather of a place",
                    "parameters": TOOL["input_schema"],
                },
            }
        ]
        assert (told["tool_choice"], told["parallel_tool_calls"]) == ("required", False)


async def test_a_conversation_with_tools_images_and_reasoning(tmp_path: Path) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "bgw1.p"},
                {"type": "text", "text": "I call"},
                {"type": "tool_use", "id": "call_0", "name": "get_weather", "input": {"city": 'the "big" one\n'}},
                {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_0", "content": [{"type": "text", "text": "sunny"}, image]},
                {"type": "text", "text": "and now?"},
                {"type": "tool_result", "tool_use_id": "call_1", "content": "no such city", "is_error": True},
            ],
        },
    ]
    async with anthropics(tmp_path, sent(document({"content": "ok"}), 0)) as (client, upstream, _):
        await client.messages.create(model="demo", max_tokens=9, messages=messages, tools=[TOOL])  # type: ignore[list-item]  # a dict
        told = json.loads(upstream.requests[0].body)["messages"]
        url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}

        def call(number: int, arguments: str) -> dict[str, Any]:
            function = {"name": "get_weather", "arguments": arguments}
            return {"id": f"call_{number}", "type": "function", "function": function}

        assert told[0] == {"role": "user", "content": [{"type": "text", "text": "look"}, url]}
        assert {**told[1], "tool_calls": None} == {
            "role": "assistant",
            "content": "I call",
            "reasoning_content": "hm",
            "tool_calls": None,
        }
        first, second = told[1]["tool_calls"]
        assert json.loads(first["function"]["arguments"]) == {"city": 'the "big" one\n'}
        assert second == call(1, "{}")
        assert told[2:] == [
            {"role": "tool", "tool_call_id": "call_0", "content": "sunny\n[image]"},
            {"role": "tool", "tool_call_id": "call_1", "content": "Error: no such city"},
            {"role": "user", "content": [url, {"type": "text", "text": "and now?"}]},
        ]


async def test_a_tool_calls_arguments_are_an_object(tmp_path: Path) -> None:
    def called(arguments: str, finish: str) -> bytes:
        call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        return document({"content": None, "tool_calls": [call]}, finish)

    answers = [sent(called('{"city": "Rome"}', "stop"), 0), sent(called('{"city": "Ro', "length"), 0)]
    async with anthropics(tmp_path, *answers, sent(called('{"city": "Ro', "stop"), 0)) as (client, _, _):
        message: Any = await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        assert (message.content[0].input, message.stop_reason) == ({"city": "Rome"}, "tool_use")
        message = await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        assert (message.content[0].input, message.stop_reason) == ({}, "max_tokens")
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        assert caught.value.status_code == 502


async def test_errors_have_the_clients_shape(tmp_path: Path) -> None:
    too_long = {"error": {"message": "This model's maximum context length is 8 tokens", "code": 400}}
    answers = [
        faults.status(404),
        faults.status(400, body=too_long),
        faults.raw(faults.json_bytes({"detail": "x"}, 422)),
    ]
    async with anthropics(tmp_path, *answers) as (client, _, _):
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        body: Any = missing.value.body
        assert (body["type"], body["error"]) == ("error", {"type": "not_found_error", "message": "answered 404"})
        assert body["request_id"]
        with pytest.raises(anthropic.BadRequestError) as long:
            await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        body = long.value.body
        assert body["error"]["message"].startswith("prompt is too long: This model's maximum")
        with pytest.raises(anthropic.APIStatusError) as other:
            await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        body = other.value.body
        assert body["error"] == {"type": "invalid_request_error", "message": "x"}


async def test_what_cannot_be_said_is_refused_by_name(tmp_path: Path) -> None:
    tools: Any = [{"type": "web_search_20250305", "name": "web_search"}]
    async with anthropics(tmp_path, sent(document({"content": "ok"}), 0)) as (client, upstream, _):
        with pytest.raises(anthropic.BadRequestError) as refused:
            await client.messages.create(model="demo", max_tokens=9, messages=HELLO, tools=tools)
        assert "web_search_20250305" in str(refused.value)
        assert not upstream.requests
    provider = {"translation": Said(lossy="drop")}
    async with anthropics(tmp_path, sent(document({"content": "ok"}), 0), provider=provider) as (client, _, _):
        raw = await client.messages.with_raw_response.create(model="demo", max_tokens=9, messages=HELLO, tools=tools)
        assert raw.headers["x-budgateway-dropped"] == "tools[0].type"
        assert raw.headers["x-budgateway-dialect"] == "anthropic.messages>openai.chat"


async def test_a_stream_that_breaks_off_has_no_end(tmp_path: Path) -> None:
    events = deltas({"content": "one "}, {"content": "two"})
    for answer in (sent(streamed(events[:2]), 0), faults.cut(streamed(events), len(streamed(events)) - 40)):
        async with anthropics(tmp_path, answer) as (client, _, _):
            with pytest.raises((anthropic.APIError, anthropic.APIConnectionError)):
                async with client.messages.stream(model="demo", max_tokens=9, messages=HELLO) as stream:
                    await stream.get_final_message()


async def test_the_client_gets_the_form_that_it_asked_for(tmp_path: Path) -> None:
    events = deltas({"content": "hi"})
    async with anthropics(tmp_path, sent(document({"content": "hi"}), 0), sent(streamed(events), 0)) as (client, _, _):
        async with client.messages.stream(model="demo", max_tokens=9, messages=HELLO) as stream:
            assert await stream.get_final_text() == "hi"
        message: Any = await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        assert message.content[0].text == "hi"


async def test_tokens_are_estimated_where_the_upstream_cannot_count(tmp_path: Path) -> None:
    async with anthropics(tmp_path, sent(document({"content": "ok"}), 0)) as (client, upstream, gateway):
        few = await client.messages.count_tokens(model="demo", messages=HELLO)
        long: list[Any] = [{"role": "user", "content": "x" * 4000}]
        raw = await client.messages.with_raw_response.count_tokens(model="demo", messages=long, tools=[TOOL])
        many = (await raw.parse()).input_tokens
        assert raw.headers["x-budgateway-estimated"] == "true"
        assert 0 < few.input_tokens < 10
        assert 1000 < many < 1100
        assert not upstream.requests
        lines = await gateway.lines(2)
        assert [line["outcome"] for line in lines] == ["complete", "complete"]


async def test_a_models_name_may_be_a_pattern(tmp_path: Path) -> None:
    provider = {"aliases": (("claude-*", "big"), ("claude-*haiku*", "small"))}
    answer = sent(document({"content": "ok"}), 0)
    async with anthropics(tmp_path, answer, provider=provider) as (client, upstream, _):
        for model in ("claude-opus-5", "claude-haiku-4-5", "other"):
            message = await client.messages.create(model=model, max_tokens=9, messages=HELLO)
            assert message.model == model
        assert [json.loads(request.body)["model"] for request in upstream.requests] == ["big", "small", "other"]


async def test_token_limits_settle_by_the_upstreams_usage(tmp_path: Path) -> None:
    rule = LimitRule("t", ("address",), Allowance(tokens_per_minute=60))
    answer = sent(document({"content": "hi"}), 0)
    async with anthropics(tmp_path, answer, limit_rules=(rule,)) as (client, upstream, _):
        for _ in range(2):  # each reserves more, and uses 16
            await client.messages.create(model="demo", max_tokens=20, messages=HELLO)
        with pytest.raises(anthropic.RateLimitError) as limited:
            await client.messages.create(model="demo", max_tokens=50, messages=HELLO)
        body: Any = limited.value.body
        assert body["error"]["type"] == "rate_limit_error"
        assert len(upstream.requests) == 2


async def test_the_query_and_headers_of_claude_code(tmp_path: Path) -> None:
    async with anthropics(tmp_path, sent(document({"content": "hi"}), 0)) as (client, upstream, _):
        message: Any = await client.beta.messages.create(
            model="demo", max_tokens=9, messages=HELLO, betas=["interleaved-thinking-2025-05-14"]
        )
        assert message.content[0].text == "hi"
        (request,) = upstream.requests
        assert request.target == "/v1/chat/completions"
        assert not any(name.startswith(("anthropic", "x-api-key")) for name, _ in request.headers)
