"""Translations without a gateway, for tests that feed them by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from budgateway.native import AnswerTranslation, Peeker, Translation, Translator

ABILITIES: dict[str, Any] = {
    "is_openai": False,
    "is_engine": False,
    "drops": False,
    "limit_field": "max_tokens",
    "reasoning_field": "reasoning_content",
    "replays_reasoning": True,
    "inline_system": "fold",
    "tool_images_inline": False,
    "passes_unknown": False,
    "default_max_tokens": 8192,
}
# A least request of each dialect, which asks for a stream and for everything that it may hold.
LEAST: dict[str, dict[str, Any]] = {
    "anthropic.messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "openai.chat": {"messages": [{"role": "user", "content": "hi"}], "stream_options": {"include_usage": True}},
    "openai.completions": {"prompt": "hi", "stream_options": {"include_usage": True}},
    "openai.responses": {"input": "hi", "include": ["reasoning.encrypted_content"]},
}


def asked(client: str, upstream: str, body: Any, **abilities: Any) -> Translation:
    """A translated request."""
    text = json.dumps(body).encode()
    Peeker().peek(text)
    return Translator(client, upstream, "p", **ABILITIES | abilities).request(text, "theirs")


def told(client: str, upstream: str, body: Any, **abilities: Any) -> Any:
    """The body of a translated request."""
    return json.loads(asked(client, upstream, body, **abilities).body)


def answered(
    client: str, upstream: str, *, is_stream: bool = True, to_stream: bool = True, **members: Any
) -> AnswerTranslation:
    """The translation of an answer to the least request."""
    body = LEAST[client] | {"model": "m", "stream": to_stream} | members
    return asked(client, upstream, body).answer("id-1", "m", 17, is_stream, to_stream)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """The data in pieces of so many bytes; 0: whole."""
    yield from (data[at : at + size] for at in range(0, len(data), size)) if size else [data]


def fed(translation: AnswerTranslation, data: bytes, size: int = 0) -> bytes:
    """Everything that comes of this answer, fed in pieces."""
    return b"".join(map(translation.feed, pieces(data, size))) + translation.finish()
