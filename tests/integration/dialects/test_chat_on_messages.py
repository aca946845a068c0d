"""OpenAI's SDK on an upstream that speaks Anthropic's Messages API: documents, streams, tools, errors, usage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from integration.dialects.dialogues import CHUNKED, CITY, EVENT_STREAM, HELLO, openais, sent
from upstreams import faults
from upstreams.wire import chunked, head

from budgateway.exchange.response_check_cy import verdict_of
from budgateway.native import VERDICT_NEUTRAL
from budgateway.records import TranslationSettings as Said

pytestmark = pytest.mark.integration

ON_MESSAGES = {"dialects": ("anthropic.messages",)}
USAGE = {
    "input_tokens": 7,
    "cache_read_input_tokens": 4,
    "cache_creation_input_tokens": 2,
    "output_tokens": 5,
}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": CITY}}


def message(*content: dict[str, Any], stop: str = "end_turn") -> bytes:
    """A message as bytes of HTTP."""
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": list(content)}
    return faults.json_bytes(whole | {"stop_reason": stop, "stop_sequence": None, "usage": USAGE})


def events(*blocks: tuple[dict[str, Any], list[dict[str, Any]]], stop: str = "end_turn") -> bytes:
    """A stream as bytes of HTTP: of each block its start and its deltas."""
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    start |= {"stop_reason": None, "stop_sequence": None, "usage": USAGE | {"output_tokens": 1}}
    datas: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, (block, deltas) in enumerate(blocks):
        datas.append({"type": "content_block_start", "index": index, "content_block": block})
        datas += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        datas.append({"type": "content_block_stop", "index": index})
    datas.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 5}})
    datas.append({"type": "message_stop"})
    written = [f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode() for data in datas]
    return head(200, [EVENT_STREAM, CHUNKED], reason="OK") + chunked(written)


@pytest.mark.parametrize("size", [0, 1])
async def test_a_document(size: int, tmp_path: Path) -> None:
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "sig"}, {"type": "text", "text": "hi \u00e9"}]
    async with openais(tmp_path, sent(message(*blocks), size), provider=ON_MESSAGES) as (client, upstream, gateway):
        answer: Any = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "system", "content": "be kind"}, *HELLO],
            temperature=1.5,
            seed=3,
            stop=["x"],
            extra_headers={"openai-beta": "b"},
        )
        said = answer.choices[0].message
        assert (said.content, said.reasoning_content) == ("hi \u00e9", "hm")
        assert said.extra_content == {"anthropic": {"thinking": [{"thinking": "hm", "signature": "sig"}]}}
        assert (answer.choices[0].finish_reason, answer.model, answer.object) == ("stop", "demo", "chat.completion")
        usage = answer.usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (13, 5, 18)
        assert usage.prompt_tokens_details.cached_tokens == 4
        (request,) = upstream.requests
        headers = dict(request.headers)
        assert (request.target, headers["anthropic-version"]) == ("/v1/messages", "2023-06-01")
        assert "openai-beta" not in headers
        assert json.loads(request.body) == {
            "model": "demo",
            "max_tokens": 8192,
            "system": "be kind",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 1,
            "stop_sequences": ["x"],
        }
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 13, 5)


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_a_stream(size: int, tmp_path: Path) -> None:
    wire = events(
        ({"type": "thinking", "thinking": "", "signature": ""}, [{"type": "thinking_delta", "thinking": "hm"}]),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "one "}, {"type": "text_delta", "text": "two"}]),
    )
    async with openais(tmp_path, sent(wire, size), provider=ON_MESSAGES) as (client, upstream, gateway):
        stream: Any = await client.chat.completions.create(
            model="demo", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two"
        assert chunks[-1].usage.prompt_tokens == 13
        assert chunks[-1].usage.completion_tokens == 5
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["stop"]
        assert json.loads(upstream.requests[0].body)["stream"] is True
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 13, 5)
    async with openais(tmp_path, sent(wire, size), provider=ON_MESSAGES) as (client, _, _):
        stream = await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("size", [0, 1])
async def test_tool_calls(size: int, tmp_path: Path) -> None:
    def called(number: int, *texts: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": "get_weather", "input": {}}
        return block, [{"type": "input_json_delta", "partial_json": text} for text in texts]

    wire = events(
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "I look."}]),
        called(0, "", '{"city": "Ber', 'lin"}'),
        called(1, '{"city": "Rome"}'),
        stop="tool_use",
    )
    async with openais(tmp_path, sent(wire, size), provider=ON_MESSAGES) as (client, upstream, _):
        options: Any = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
        async with client.chat.completions.stream(model="demo", messages=HELLO, **options) as stream:
            final = await stream.get_final_completion()
        calls = final.choices[0].message.tool_calls or []
        assert [(call.id, json.loads(call.function.arguments)) for call in calls] == [
            ("toolu_0", {"city": "Berlin"}),
            ("toolu_1", {"city": "Rome"}),
        ]
        assert final.choices[0].finish_reason == "tool_calls"
        body = json.loads(upstream.requests[0].body)
        assert body["tools"] == [{"name": "get_weather", "description": "d", "input_schema": CITY}]
        assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}


async def test_a_conversation(tmp_path: Path) -> None:
    def call(number: int, arguments: str) -> dict[str, Any]:
        return {
            "id": f"functions.go:{number}",
            "type": "function",
            "function": {"name": "get_weather", "arguments": arguments},
        }

    thinking = [{"thinking": "hm", "signature": "sig"}]
    messages: list[Any] = [
        {"role": "system", "content": "one"},
        {"role": "developer", "content": "two"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call(0, '{"city": "x\\n"}'), call(1, "")],
            "extra_content": {"anthropic": {"thinking": thinking}},
        },
        {"role": "tool", "tool_call_id": "functions.go:0", "content": "sunny"},
        {"role": "tool", "tool_call_id": "functions.go:1", "content": "rain"},
        {"role": "user", "content": "and now?"},
        {"role": "user", "content": "  "},
    ]
    async with openais(tmp_path, sent(message({"type": "text", "text": "ok"}), 0), provider=ON_MESSAGES) as (
        client,
        upstream,
        _,
    ):
        await client.chat.completions.create(model="demo", messages=messages, max_tokens=7, tools=[TOOL])
        body = json.loads(upstream.requests[0].body)
        assert (body["system"], body["max_tokens"]) == ("one\ntwo", 7)
        first, second, third = body["messages"]
        assert first["content"] == [
            {"type": "text", "text": "look"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
            {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        ]
        assert [block["type"] for block in second["content"]] == ["thinking", "tool_use", "tool_use"]
        assert second["content"][0]["signature"] == "sig"
        assert [block["input"] for block in second["content"][1:]] == [{"city": "x\n"}, {}]
        ids = [block["id"] for block in second["content"][1:]]
        assert [block["type"] for block in third["content"]] == ["tool_result", "tool_result", "text"]
        assert [block["tool_use_id"] for block in third["content"][:2]] == ids
        assert len(set(ids)) == 2
        assert all(name.startswith("toolu_") and len(name) == 28 for name in ids)


async def test_what_cannot_be_said(tmp_path: Path) -> None:
    async with openais(tmp_path, sent(message({"type": "text", "text": "ok"}), 0), provider=ON_MESSAGES) as (
        client,
        upstream,
        _,
    ):
        refusals: list[tuple[str, Any]] = [
            ("n", 2),
            ("logprobs", True),
            ("logit_bias", {"1": 2}),
            ("presence_penalty", 0.5),
            ("response_format", {"type": "json_object"}),
            ("min_p", 0.1),
        ]
        for name, value in refusals:
            body: Any = {name: value}
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(model="demo", messages=HELLO, extra_body=body)
            told: Any = refused.value.body
            assert (told["code"], told["param"]) == ("unsupported_field", name)
        assert not upstream.requests
        defaults = {
            "n": 1,
            "logprobs": False,
            "logit_bias": {},
            "presence_penalty": 0,
            "response_format": {"type": "text"},
        }
        await client.chat.completions.create(model="demo", messages=HELLO, extra_body=defaults)
        assert set(json.loads(upstream.requests[0].body)) == {"model", "messages", "max_tokens"}
    provider = ON_MESSAGES | {"translation": Said(lossy="drop")}
    async with openais(tmp_path, sent(message({"type": "text", "text": "ok"}), 0), provider=provider) as (client, _, _):
        body = {"presence_penalty": 0.5, "seed": 1, "temperature": 2}
        raw = await client.chat.completions.with_raw_response.create(model="demo", messages=HELLO, extra_body=body)
        assert sorted(raw.headers["x-budgateway-dropped"].split(", ")) == ["presence_penalty", "seed", "temperature~"]


async def test_errors(tmp_path: Path) -> None:
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    long = {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8"}}
    answers = [faults.status(529, body=overloaded), faults.status(400, body=long)]
    async with openais(tmp_path, *answers, provider=ON_MESSAGES) as (client, _, _):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="demo", messages=HELLO)
        body: Any = caught.value.body
        assert (body["message"], body["code"]) == ("Overloaded", "overloaded")
        with pytest.raises(openai.BadRequestError) as caught_long:
            await client.chat.completions.create(model="demo", messages=HELLO)
        body = caught_long.value.body
        assert (body["code"], body["type"]) == ("context_length_exceeded", "invalid_request_error")


async def test_the_responses_api_on_messages(tmp_path: Path) -> None:
    wire = events(({"type": "text", "text": ""}, [{"type": "text_delta", "text": "one"}]))
    async with openais(tmp_path, sent(wire, 0), provider=ON_MESSAGES) as (client, upstream, _):
        async with client.responses.stream(model="demo", input="hello") as stream:
            final = await stream.get_final_response()
        assert final.output_text == "one"
        assert json.loads(upstream.requests[0].body)["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_of_the_gateways_key_is_no_fault_of_the_client(status: int, tmp_path: Path) -> None:
    error = {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}
    async with openais(tmp_path, faults.status(status, body=error), provider=ON_MESSAGES) as (client, _, _):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="demo", messages=HELLO)
        body: Any = caught.value.body
        assert (caught.value.status_code, body["code"]) == (502, "upstream_error")
        assert "refused the gateway's key" in body["message"]


def test_an_overloaded_api_is_no_broken_one() -> None:
    assert verdict_of(529) == VERDICT_NEUTRAL
