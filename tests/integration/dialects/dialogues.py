"""Answers of upstreams by hand, and gateways before them with the official clients."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream
from upstreams.wire import chunked, head, sse

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
EVENT_STREAM = ("content-type", "text/event-stream")
CHUNKED = ("transfer-encoding", "chunked")
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16, "prompt_tokens_details": {"cached_tokens": 4}}


def document(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    """A chat completion as bytes of HTTP."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}
    return faults.json_bytes({"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE})


def deltas(*deltas: dict[str, Any], finish: str = "stop", usage: Any = USAGE) -> list[bytes]:
    """The events of a stream with these deltas."""
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": usage})
    return sse(*[json.dumps(chunk) for chunk in chunks], "[DONE]")


def streamed(events: list[bytes]) -> bytes:
    """Events as bytes of HTTP."""
    return head(200, [EVENT_STREAM, CHUNKED], reason="OK") + chunked(events)


def sent(wire: bytes, size: int) -> Answer:
    """These bytes in one write, or `size` at a time."""
    return faults.dribble(wire, size) if size else faults.raw(wire)


def piece(index: int, **function: Any) -> dict[str, Any]:
    """A delta with a piece of a tool call."""
    begun = {"id": f"call_{index}", "type": "function"} if "name" in function else {}
    return {"tool_calls": [{"index": index, **begun, "function": function}]}


@asynccontextmanager
async def fronted(log: Path, *answers: Answer, **options: Any) -> AsyncIterator[tuple[FaultyUpstream, Inside]]:
    """A gateway before one upstream."""
    async with (
        FaultyUpstream(*answers) as upstream,
        inside(upstream.url, log, path="/v1/*", **options) as gateway,
    ):
        yield upstream, gateway
        await gateway.at_rest()


@asynccontextmanager
async def anthropics(
    log: Path, *answers: Answer, **options: Any
) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, FaultyUpstream, Inside]]:
    """An Anthropic client at a gateway before one upstream."""
    async with fronted(log, *answers, **options) as (upstream, gateway):
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", max_retries=0, timeout=20) as client:
            yield client, upstream, gateway


@asynccontextmanager
async def openais(
    log: Path, *answers: Answer, **options: Any
) -> AsyncIterator[tuple[openai.AsyncOpenAI, FaultyUpstream, Inside]]:
    """An OpenAI client at a gateway before one upstream."""
    async with fronted(log, *answers, **options) as (upstream, gateway):
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
            yield client, upstream, gateway
