"""Gemini's generateContent as upstream, for the clients of the other APIs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from integration.dialects.dialogues import CHUNKED, CITY, EVENT_STREAM, HELLO, anthropics, openais, sent
from upstreams import faults
from upstreams.wire import chunked, head

pytestmark = pytest.mark.integration

ON_GEMINI = {"dialects": ("gemini.generate",), "aliases": (("demo", "gemini-3-pro"),)}
USAGE = {"promptTokenCount": 9, "cachedContentTokenCount": 4, "candidatesTokenCount": 3, "thoughtsTokenCount": 2}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}


def chunk(*parts: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A response, or one chunk of it."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})], "usageMetadata": USAGE}


def streamed(*chunks: dict[str, Any]) -> bytes:
    """A stream as bytes of HTTP."""
    events = [f"data: {json.dumps(part)}\r\n\r\n".encode() for part in chunks]
    return head(200, [EVENT_STREAM, CHUNKED], reason="OK") + chunked(events)


@pytest.mark.parametrize("size", [0, 1])
async def test_a_document(size: int, tmp_path: Path) -> None:
    wire = faults.json_bytes(chunk({"text": "hm", "thought": True}, {"text": "hi"}, finish="STOP"))
    async with openais(tmp_path, sent(wire, size), provider=ON_GEMINI) as (client, upstream, gateway):
        messages: list[Any] = [{"role": "system", "content": "be kind"}, *HELLO]
        answer: Any = await client.chat.completions.create(
            model="demo", messages=messages, max_tokens=5, temperature=0.5, stop="x", reasoning_effort="low"
        )
        said = answer.choices[0]
        assert (said.message.content, said.message.reasoning_content, said.finish_reason) == ("hi", "hm", "stop")
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 5)
        (request,) = upstream.requests
        assert request.target == "/v1beta/models/gemini-3-pro:generateContent"
        assert json.loads(request.body) == {
            "systemInstruction": {"parts": [{"text": "be kind"}]},
            "contents": [{"role": "user", "parts": [{"text": "hello"}]}],
            "generationConfig": {
                "maxOutputTokens": 5,
                "stopSequences": ["x"],
                "temperature": 0.5,
                "thinkingConfig": {"thinkingLevel": "low", "includeThoughts": True},
            },
        }
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 9, 5)


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_a_stream_with_calls_of_one_name(size: int, tmp_path: Path) -> None:
    def call(city: str) -> dict[str, Any]:
        return {"functionCall": {"name": "get_weather", "args": {"city": city}}}

    wire = streamed(chunk({"text": "I look."}), chunk(call("Rome")), chunk(call("Berlin")), chunk(finish="STOP"))
    async with openais(tmp_path, sent(wire, size), provider=ON_GEMINI) as (client, upstream, _):
        options: Any = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
        async with client.chat.completions.stream(model="demo", messages=HELLO, **options) as stream:
            final = await stream.get_final_completion()
        calls = final.choices[0].message.tool_calls or []
        assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Rome", "Berlin"]
        assert len({call.id for call in calls}) == 2
        assert final.choices[0].finish_reason == "tool_calls"
        (request,) = upstream.requests
        assert request.target == "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse"
        body = json.loads(request.body)
        declared = {"name": "get_weather", "parametersJsonSchema": CITY}
        assert body["tools"] == [{"functionDeclarations": [declared]}]
        config = {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}
        assert body["toolConfig"] == {"functionCallingConfig": config}


async def test_a_conversation_with_calls(tmp_path: Path) -> None:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": f"f{n}", "arguments": '{"a":1}'}} for n in range(2)
    ]
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c0", "content": '{"b": 2}'},
        {"role": "tool", "tool_call_id": "c1", "content": "text"},
    ]
    wire = faults.json_bytes(chunk({"text": "ok"}, finish="STOP"))
    async with openais(tmp_path, sent(wire, 0), provider=ON_GEMINI) as (client, upstream, _):
        await client.chat.completions.create(model="demo", messages=messages)
        user, model, results = json.loads(upstream.requests[0].body)["contents"]
        assert user["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}]
        assert [part.get("thoughtSignature") for part in model["parts"]] == ["skip_thought_signature_validator", None]
        assert [part["functionCall"]["name"] for part in model["parts"]] == ["f0", "f1"]
        assert [part["functionResponse"]["response"] for part in results["parts"]] == [{"b": 2}, {"output": "text"}]
        assert results["role"] == "user"
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="demo", messages=[messages[0], messages[2]])


async def test_other_clients(tmp_path: Path) -> None:
    wire = streamed(chunk({"text": "one "}), chunk({"text": "two"}, finish="MAX_TOKENS"))
    async with anthropics(tmp_path, sent(wire, 0), provider=ON_GEMINI) as (client, _, _):
        async with client.messages.stream(model="demo", max_tokens=9, messages=HELLO) as stream:
            message = await stream.get_final_message()
        assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("max_tokens", 5, 5)
    wire = streamed(chunk({"text": "one "}), chunk({"text": "two"}, finish="STOP"))
    async with openais(tmp_path, sent(wire, 0), provider=ON_GEMINI) as (other, _, _):
        async with other.responses.stream(model="demo", input="hello") as stream:
            assert (await stream.get_final_response()).output_text == "one two"


async def test_errors_and_endless_streams(tmp_path: Path) -> None:
    error = {"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}
    answers = [faults.status(429, body=error), sent(streamed(chunk({"text": "one "})), 0)]
    async with openais(tmp_path, *answers, provider=ON_GEMINI) as (client, _, _):
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="demo", messages=HELLO)
        body: Any = limited.value.body
        assert (body["message"], body["code"]) == ("quota", "rate_limit_exceeded")
        with pytest.raises((openai.APIError, openai.APIConnectionError)):
            stream: Any = await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
            async for _ in stream:
                pass
