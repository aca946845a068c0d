"""The Responses API of OpenAI's SDK, and what Codex sends, on an upstream that speaks Chat Completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from integration.dialects.dialogues import CITY, deltas, document, openais, piece, sent, streamed
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage
from upstreams import faults

from budgateway.records import TranslationSettings as Said

pytestmark = pytest.mark.integration

ON_CHAT = {"dialects": ("openai.chat",)}
TOOL: Any = {"type": "function", "name": "get_weather", "description": "d", "parameters": CITY, "strict": False}


@pytest.mark.parametrize("size", [0, 1])
async def test_a_document(size: int, tmp_path: Path) -> None:
    answer = sent(document({"content": "hi \u00e9", "reasoning_content": "hm"}), size)
    async with openais(tmp_path, answer, provider=ON_CHAT) as (client, upstream, gateway):
        response = await client.responses.create(
            model="demo",
            input="hello",
            instructions="be kind",
            max_output_tokens=9,
            temperature=0.5,
            metadata={"a": "b"},
        )
        assert response.output_text == "hi \u00e9"
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert (response.status, response.model, response.temperature) == ("completed", "demo", 0.5)
        assert (response.instructions, response.metadata, response.object) == ("be kind", {"a": "b"}, "response")
        usage = response.usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (11, 5, 16)
        assert usage.input_tokens_details.cached_tokens == 4
        (request,) = upstream.requests
        assert request.target == "/v1/chat/completions"
        assert json.loads(request.body) == {
            "model": "demo",
            "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}],
            "max_tokens": 9,
            "temperature": 0.5,
        }
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 11, 5)


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_a_stream(size: int, tmp_path: Path) -> None:
    events = deltas(
        {"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": "a "}, {"content": "b"}
    )
    async with openais(tmp_path, sent(streamed(events), size), provider=ON_CHAT) as (client, upstream, _):
        async with client.responses.stream(model="demo", input="hello") as stream:
            seen = [event async for event in stream]
            final = await stream.get_final_response()
        assert [event.type for event in seen] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert final.output_text == "a b"
        assert final.usage is not None
        assert (final.usage.input_tokens, final.usage.output_tokens) == (11, 5)
        assert json.loads(upstream.requests[0].body)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("size", [0, 1])
async def test_parallel_tool_calls(size: int, tmp_path: Path) -> None:
    events = deltas(
        piece(0, name="get_weather", arguments=""),
        piece(1, name="get_weather", arguments='{"city"'),
        piece(0, arguments='{"city": "Berlin"}'),
        piece(1, arguments=': "Rome"}'),
    )
    async with openais(tmp_path, sent(streamed(events), size), provider=ON_CHAT) as (client, upstream, _):
        options: Any = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "get_weather"}}
        async with client.responses.stream(model="demo", input="hello", parallel_tool_calls=True, **options) as stream:
            final = await stream.get_final_response()
        calls = [item for item in final.output if isinstance(item, ResponseFunctionToolCall)]
        assert [(call.call_id, call.name, json.loads(call.arguments)) for call in calls] == [
            ("call_0", "get_weather", {"city": "Berlin"}),
            ("call_1", "get_weather", {"city": "Rome"}),
        ]
        body = json.loads(upstream.requests[0].body)
        function = {"name": "get_weather", "description": "d", "parameters": CITY, "strict": False}
        assert body["tools"] == [{"type": "function", "function": function}]
        assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
        assert body["parallel_tool_calls"] is True


CODEX: dict[str, Any] = {
    "model": "demo",
    "instructions": "You are Codex.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "sandbox"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "fix it"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": "bgw1.aG0="},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "name": "shell", "arguments": '{"command": ["ls"]}', "call_id": "c1"},
        {"type": "custom_tool_call", "name": "apply_patch", "input": 'a "patch"\n', "call_id": "c2", "id": "x"},
        {"type": "function_call_output", "call_id": "c1", "output": "files"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
    ],
    "tools": [
        {"type": "function", "name": "shell", "description": "s", "strict": False, "parameters": {"type": "object"}},
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "patches",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
        },
        {"type": "namespace", "name": "mcp", "description": "d", "tools": [{"type": "function", "name": "go"}]},
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k",
    "extra_body": {"client_metadata": {"a": "b"}},
}


async def test_what_codex_sends(tmp_path: Path) -> None:
    events = deltas(
        {"reasoning_content": "hm"},
        piece(0, name="apply_patch", arguments='{"input": "*** Begin\\n'),
        piece(0, arguments='\\"x\\""}'),
        piece(1, name="mcp__go", arguments="{}"),
    )
    provider = ON_CHAT | {"translation": Said(lossy="drop")}
    async with openais(tmp_path, sent(streamed(events), 0), provider=provider) as (client, upstream, _):
        raw = await client.responses.with_raw_response.create(**CODEX)
        dropped = set(raw.headers["x-budgateway-dropped"].split(", "))
        assert dropped == {"tools[3].type", "prompt_cache_key", "client_metadata"}
        stream: Any = raw.parse()
        seen = [event async for event in stream]
        final = seen[-1].response
        thought, patch, go = final.output
        assert [part.text for part in thought.summary] == ["hm"]
        assert thought.encrypted_content == "bgw1.aG0="
        assert (patch.type, patch.name, patch.input) == ("custom_tool_call", "apply_patch", '*** Begin\n"x"')
        assert (go.type, go.namespace, go.name, go.arguments) == ("function_call", "mcp", "go", "{}")
        assert "response.reasoning_summary_text.delta" in [event.type for event in seen]
        assert [event.delta for event in seen if event.type == "response.custom_tool_call_input.delta"] == [patch.input]
        body = json.loads(upstream.requests[0].body)
        assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool", "tool"]
        assert body["messages"][0]["content"] == "You are Codex.\n\nsandbox"
        assistant = body["messages"][2]
        assert (assistant["content"], assistant["reasoning_content"]) == ("I look.", "hm")
        assert [call["function"]["name"] for call in assistant["tool_calls"]] == ["shell", "apply_patch"]
        assert json.loads(assistant["tool_calls"][1]["function"]["arguments"]) == {"input": 'a "patch"\n'}
        names = [tool["function"]["name"] for tool in body["tools"]]
        assert names == ["shell", "apply_patch", "mcp__go"]
        assert body["tools"][1]["function"]["description"] == "patches\n\nstart: x"
        assert (body["reasoning_effort"], body["parallel_tool_calls"]) == ("medium", True)


async def test_images_and_structured_output(tmp_path: Path) -> None:
    content = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "auto"},
    ]
    form: Any = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}
    async with openais(tmp_path, sent(document({"content": "{}"}), 0), provider=ON_CHAT) as (client, upstream, _):
        items: Any = [{"role": "user", "content": content}]
        response = await client.responses.create(model="demo", input=items, text=form)
        assert isinstance(response.output[0], ResponseOutputMessage)
        body = json.loads(upstream.requests[0].body)
        url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
        assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "look"}, url]}]
        schema = {"name": "city", "schema": CITY, "strict": True}
        assert body["response_format"] == {"type": "json_schema", "json_schema": schema}


async def test_what_is_stored_nowhere_is_refused(tmp_path: Path) -> None:
    async with openais(tmp_path, faults.echo(), provider=ON_CHAT) as (client, upstream, _):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="demo", input="x", previous_response_id="resp_1")
        body: Any = refused.value.body
        assert (body["code"], body["param"]) == ("previous_response_not_found", "previous_response_id")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="demo", input="x", background=True)
        body = refused.value.body
        assert (body["code"], body["param"]) == ("unsupported_field", "background")
        assert not upstream.requests


async def test_an_answer_that_was_cut_is_incomplete(tmp_path: Path) -> None:
    answers = [
        sent(document({"content": "hi"}, "length"), 0),
        sent(streamed(deltas({"content": "hi"}, finish="length")), 0),
    ]
    async with openais(tmp_path, *answers, provider=ON_CHAT) as (client, _, _):
        response = await client.responses.create(model="demo", input="x")
        assert response.incomplete_details is not None
        assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        stream: Any = await client.responses.create(model="demo", input="x", stream=True)
        assert [event async for event in stream][-1].type == "response.incomplete"


async def test_a_stream_that_breaks_off_fails(tmp_path: Path) -> None:
    wire = streamed(deltas({"content": "one "}, {"content": "two"}))
    async with openais(tmp_path, faults.cut(wire, len(wire) - 40), provider=ON_CHAT) as (client, _, _):
        stream: Any = await client.responses.create(model="demo", input="x", stream=True)
        seen = []
        with pytest.raises((openai.APIError, Exception)):
            async for event in stream:
                seen.append(event)
        numbers = [event.sequence_number for event in seen]
        assert numbers == list(range(len(seen)))
        assert seen[-1].type == "response.failed"


async def test_errors(tmp_path: Path) -> None:
    async with openais(tmp_path, faults.status(404), provider=ON_CHAT) as (client, _, _):
        with pytest.raises(openai.NotFoundError) as missing:
            await client.responses.create(model="demo", input="x")
        body: Any = missing.value.body
        assert (body["message"], body["type"]) == ("answered 404", "invalid_request_error")
