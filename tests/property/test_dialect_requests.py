"""Generated requests: no field is lost without a word, whatever the body holds; output is bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from translations import ABILITIES, LEAST, answered, asked, fed

from budgateway.errors import BadRequest, UpstreamError
from budgateway.native import Translator

# Documented fields with values that are not the API's default. Members of others are in tests/unit/dialect.
FIELDS: dict[str, dict[str, Any]] = {
    "anthropic.messages": {
        "max_tokens": 77,
        "system": "be kind",
        "temperature": 0.25,
        "top_p": 0.125,
        "top_k": 3,
        "stop_sequences": ["halt"],
        "thinking": {"type": "enabled", "budget_tokens": 3000},
        "output_config": {"effort": "low"},
        "metadata": {"user_id": "someone"},
        "service_tier": "standard_only",
        "mcp_servers": [{"name": "x"}],
        "container": "c",
        "inference_geo": "eu",
        "context_management": {"edits": []},
        "speed": "fast",
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "cache_control": {"type": "ephemeral"},
    },
    "openai.chat": {
        "max_completion_tokens": 77,
        "temperature": 0.25,
        "top_p": 0.125,
        "stop": ["halt"],
        "n": 3,
        "seed": 5,
        "logprobs": True,
        "top_logprobs": 2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "logit_bias": {"1": 1},
        "user": "someone",
        "safety_identifier": "someone",
        "metadata": {"a": "b"},
        "store": True,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "service_tier": "flex",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "x"},
        "audio": {"voice": "v", "format": "wav"},
        "modalities": ["text", "audio"],
        "web_search_options": {"a": 1},
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "parallel_tool_calls": False,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "guided_json": {"type": "object"},
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    "openai.responses": {
        "instructions": "be kind",
        "max_output_tokens": 77,
        "temperature": 0.25,
        "top_p": 0.125,
        "top_logprobs": 2,
        "include": ["file_search_call.results"],
        "previous_response_id": "r",
        "conversation": "c",
        "background": True,
        "prompt": {"id": "p"},
        "context_management": [{"type": "compaction"}],
        "max_tool_calls": 4,
        "truncation": "auto",
        "service_tier": "flex",
        "safety_identifier": "someone",
        "store": True,
        "prompt_cache_key": "k",
        "client_metadata": {"a": "b"},
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    },
}
PAIRS = [
    ("anthropic.messages", "openai.chat"),
    ("anthropic.messages", "gemini.generate"),
    ("openai.chat", "anthropic.messages"),
    ("openai.chat", "gemini.generate"),
    ("openai.responses", "openai.chat"),
    ("openai.responses", "anthropic.messages"),
    ("openai.responses", "gemini.generate"),
]
# Members of which one other member decides whether they mean anything.
DEPENDENT = {"parallel_tool_calls"}


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_no_field_is_lost_without_a_word(client: str, upstream: str, drops: bool) -> None:
    plain = asked(client, upstream, LEAST[client], drops=drops)
    for name, value in FIELDS[client].items():
        body = LEAST[client] | {name: value}
        if name in DEPENDENT:
            body |= {"tools": FIELDS[client]["tools"]}
        try:
            translation = asked(client, upstream, body, drops=drops)
        except BadRequest as error:
            assert str(error.param).split("[")[0].split(".")[0] == name
            continue
        is_mapped = translation.body != plain.body
        is_named = any(word.rstrip("~").split(".")[0].split("[")[0] == name for word in translation.dropped)
        assert is_mapped or is_named, (name, translation.dropped)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text(max_size=6) | st.sampled_from(["text", "image", "user"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "role", "content", "source", "data", "url", "name", "input", "id", "function", "tools",
                 "arguments", "tool_calls", "tool_use_id", "image_url", "media_type", "output", "call_id", "summary"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=24,
)  # fmt: skip


@given(st.sampled_from(PAIRS), st.sampled_from(["messages", "input", "tools", "tool_choice", "system", "text"]), VALUES)
def test_any_body_is_translated_or_refused(pair: tuple[str, str], name: str, value: Any) -> None:
    client, upstream = pair
    body = LEAST[client] | {name: value}
    try:
        translation = asked(client, upstream, body, drops=True)
    except BadRequest as error:
        assert str(error)
        return
    json.loads(translation.body)
    assert len(translation.body) <= 4 * len(json.dumps(body)) + 65536
    assert all(word.isascii() and "\n" not in word for word in translation.dropped)


@pytest.mark.parametrize("depth", [100, 127, 128, 4000])
def test_deep_bodies_are_translated_or_refused(depth: int) -> None:
    schema = '{"a":' * depth + "1" + "}" * depth
    text = b'{"max_tokens":1,"messages":[{"role":"user","content":"a"}],"tools":[{"name":"f","input_schema":%b}]}'
    body = text % schema.encode()
    try:
        told = Translator("anthropic.messages", "openai.chat", "p", **ABILITIES).request(body, "m")
    except BadRequest:
        assert depth >= 120
        return
    json.loads(told.body)


CHUNK = st.dictionaries(
    st.sampled_from(["choices", "usage", "error", "type", "delta", "message", "candidates", "content_block", "index"]),
    VALUES,
    max_size=4,
)


@given(
    st.sampled_from(["anthropic.messages", "openai.chat", "openai.responses", "openai.completions"]),
    st.sampled_from(["openai.chat", "anthropic.messages", "gemini.generate"]),
    st.lists(CHUNK | VALUES, max_size=6),
    st.integers(0, 9),
)
def test_any_stream_is_translated_or_a_fault(client: str, upstream: str, chunks: list[Any], size: int) -> None:
    data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"

    def outcome(size: int) -> bytes | None:
        try:
            return fed(answered(client, upstream), data, size)
        except UpstreamError:
            return None

    whole = outcome(0)
    assert outcome(size) == whole
    if whole is not None:
        for event in whole.decode().split("\n\n")[:-1]:
            text = event.rsplit("data: ", 1)[1]
            assert text == "[DONE]" or json.loads(text)


@given(st.binary(max_size=200), st.integers(0, 9))
def test_any_bytes_are_translated_or_a_fault(data: bytes, size: int) -> None:
    for is_stream in (False, True):
        try:
            fed(answered("anthropic.messages", "openai.chat", is_stream=is_stream), b"data: " + data + b"\n\n", size)
        except UpstreamError:
            continue
