"""Cost of a translation: one event of a stream, a request, a document; next to Python with the json module."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway.native import Translation, Translator

ABILITIES: dict[str, Any] = {
    "is_openai": False,
    "is_engine": True,
    "drops": False,
    "limit_field": "max_tokens",
    "reasoning_field": "reasoning_content",
    "replays_reasoning": True,
    "inline_system": "fold",
    "tool_images_inline": False,
    "passes_unknown": True,
    "default_max_tokens": 8192,
}
CHUNK = {
    "id": "chatcmpl-9aXk2",
    "object": "chat.completion.chunk",
    "created": 1730000000,
    "model": "llama-3.1-8b",
    "choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}],
}
EVENT = b"data: " + json.dumps(CHUNK, separators=(",", ":")).encode() + b"\n\n"
SCHEMA = {
    "type": "object",
    "properties": {f"member_{n}": {"type": "string", "description": "d" * 40} for n in range(9)},
}
TOOLS = [{"name": f"tool_{n}", "description": "x" * 200, "input_schema": SCHEMA} for n in range(40)]


def conversation(size: int) -> list[dict[str, Any]]:
    """Turns of about so many bytes."""
    turns = []
    for number in range(size // 1000):
        call = {"type": "tool_use", "id": f"t{number}", "name": "tool_1", "input": {"path": "a" * 100}}
        turns.append({"role": "assistant", "content": [{"type": "text", "text": "t" * 100}, call]})
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": 'line "x"\n' * 60}
        turns.append({"role": "user", "content": [result]})
    return [{"role": "user", "content": "begin"}, *turns]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * (10 << 20)}}
BODIES = {
    "20KB": {"model": "m", "max_tokens": 9, "messages": conversation(20_000)},
    "200KB": {"model": "m", "max_tokens": 9, "messages": conversation(170_000), "tools": TOOLS},
    "10MB": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [IMAGE]}]},
}


def translator(client: str) -> Translator:
    """A translator to chat completions."""
    return Translator(client, "openai.chat", "p", **ABILITIES)


def begun(client: str, *, to_stream: bool) -> Translation:
    """A translation whose answer comes."""
    least: Any = {"model": "m", "stream": to_stream, "input": "hi"}
    if client == "anthropic.messages":
        least = {"model": "m", "stream": to_stream, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    return translator(client).request(json.dumps(least).encode(), "m")


@pytest.mark.parametrize("client", ["anthropic.messages", "openai.responses"])
def test_translate_event_compiled(benchmark: BenchmarkFixture, client: str) -> None:
    if client == "openai.responses":
        # It keeps the whole answer: a new one for each thousand events.
        def thousand() -> None:
            answer = begun(client, to_stream=True).answer("i", "m", 1, True, True)
            for _ in range(1000):
                answer.feed(EVENT)

        benchmark(thousand)
        return
    answer = begun(client, to_stream=True).answer("i", "m", 1, True, True)
    answer.feed(EVENT)
    assert b'"text":" token"' in benchmark(answer.feed, EVENT)


@pytest.mark.parametrize("size", BODIES)
def test_translate_request_compiled(benchmark: BenchmarkFixture, size: str) -> None:
    body = json.dumps(BODIES[size]).encode()
    benchmark(translator("anthropic.messages").request, body, "m")


def test_translate_document_compiled(benchmark: BenchmarkFixture) -> None:
    message = {"role": "assistant", "content": "word " * 380}
    document = json.dumps({**CHUNK, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    translation = begun("anthropic.messages", to_stream=False)

    def whole() -> bytes:
        answer = translation.answer("i", "m", 1, False, False)
        return answer.feed(document) + answer.finish()

    assert b'"end_turn"' in benchmark(whole)


def test_translate_event_json(benchmark: BenchmarkFixture) -> None:
    def translated(event: bytes) -> bytes:
        delta = json.loads(event[6:])["choices"][0]["delta"]
        inner = {"type": "text_delta", "text": delta["content"]}
        data = {"type": "content_block_delta", "index": 0, "delta": inner}
        return b"event: content_block_delta\ndata: " + json.dumps(data).encode() + b"\n\n"

    assert benchmark(translated, EVENT)
