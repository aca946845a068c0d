"""The Completions API on an upstream that only has Chat Completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from integration.dialects.dialogues import deltas, document, openais, sent, streamed

pytestmark = pytest.mark.integration

ON_CHAT = {"dialects": ("openai.chat",)}


@pytest.mark.parametrize("size", [0, 1])
async def test_a_document_and_a_stream(size: int, tmp_path: Path) -> None:
    answers = [
        sent(document({"content": "hi"}), size),
        sent(streamed(deltas({"content": "a"}, {"content": "b"})), size),
    ]
    async with openais(tmp_path, *answers, provider=ON_CHAT) as (client, upstream, _):
        answer = await client.completions.create(model="demo", prompt="once", stop=["x"])
        assert (answer.choices[0].text, answer.choices[0].finish_reason, answer.object) == (
            "hi",
            "stop",
            "text_completion",
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 11
        options: Any = {"include_usage": True}
        stream = await client.completions.create(model="demo", prompt="once", stream=True, stream_options=options)
        *chunks, last = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "ab"
        assert last.usage is not None
        assert chunks[-1].choices[0].finish_reason == "stop"
        first = json.loads(upstream.requests[0].body)
        assert first == {
            "model": "demo",
            "messages": [{"role": "user", "content": "once"}],
            "max_tokens": 16,
            "stop": ["x"],
        }


async def test_what_a_chat_cannot_do(tmp_path: Path) -> None:
    async with openais(tmp_path, sent(document({"content": "hi"}), 0), provider=ON_CHAT) as (client, upstream, _):
        wishes: list[tuple[str, Any]] = [("echo", True), ("suffix", "s"), ("best_of", 2), ("logprobs", 1)]
        for name, value in wishes:
            with pytest.raises(openai.BadRequestError) as refused:
                await client.completions.create(model="demo", prompt="once", extra_body={name: value})
            body: Any = refused.value.body
            assert (body["code"], body["param"]) == ("unsupported_field", name)
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="demo", prompt=["a", "b"])
        assert not upstream.requests
