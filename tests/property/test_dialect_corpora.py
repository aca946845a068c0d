"""Recorded answers and requests of the big APIs through every translation: grammar, types of the SDKs, any cut."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import anthropic.types
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from corpora import ABSENT, FOLDER, files
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from oracles.grammars import GRAMMARS, chat, events_of, messages, responses
from pydantic import TypeAdapter
from translations import answered, asked, fed

from budgateway.errors import BadRequest, UpstreamError

STREAMS = FOLDER / "llm-streams-cassettes" / "streams.jsonl"
ANTHROPIC = files("anthropic-streams", "*.txt") + files("anthropic-streams", "*.sse")
SIZES = (0, 1, 7, 64, 1000)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENT: TypeAdapter[Any] = TypeAdapter(anthropic.types.RawMessageStreamEvent)

pytestmark = pytest.mark.skipif(not STREAMS.exists(), reason=ABSENT)


@cache
def recorded(path: str) -> list[dict[str, Any]]:
    """The recorded streams of one API."""
    records = map(json.loads, STREAMS.read_text().splitlines())
    return [record for record in records if path in record["uri"] and "mistral" not in record["uri"]]


def check(client: str, out: bytes) -> dict[str, Any]:
    """Check a stream by the grammar and by the types of the client's SDK; return what it says."""
    said: dict[str, Any] = GRAMMARS[client](out)
    for _, data in events_of(out):
        match client:
            case "anthropic.messages" if data["type"] != "error":
                MESSAGE_EVENT.validate_python(data)
            case "openai.chat" if data != "[DONE]" and "error" not in data:
                ChatCompletionChunk.model_validate(data, strict=True)
            case "openai.responses":
                EVENT.validate_python(data)
    return said


@pytest.mark.parametrize("client", ["anthropic.messages", "openai.responses"])
def test_recorded_chats(client: str) -> None:
    seen = 0
    for record in recorded("/chat/completions"):
        stream = record["sse"].encode()
        whole = fed(answered(client, "openai.chat"), stream)
        said = check(client, whole)
        seen += bool(said)
        for size in SIZES[1:]:
            assert fed(answered(client, "openai.chat"), stream, size) == whole, record["id"]
        if not said:  # its upstream reported an error, which a document cannot hold
            with pytest.raises(UpstreamError):
                fed(answered(client, "openai.chat", to_stream=False), stream)
            continue
        document = json.loads(fed(answered(client, "openai.chat", to_stream=False), stream))
        if client == "anthropic.messages":
            for block in document["content"]:
                block.pop("citations", None)
            assert without_usage(document) == without_usage(said), record["id"]
            anthropic.types.Message.model_validate(document)
        else:
            assert document == said, record["id"]
            Response.model_validate(document)
    assert seen > 100


def without_usage(message: dict[str, Any]) -> dict[str, Any]:
    """A message without its counts, of which a stream has an estimate first."""
    return {name: value for name, value in message.items() if name != "usage"}


@pytest.mark.parametrize("client", ["openai.chat", "openai.responses"])
def test_recorded_messages(client: str) -> None:
    streams = [(record["id"], record["sse"].encode()) for record in recorded("/messages")]
    streams += [(path.name, path.read_bytes()) for path in ANTHROPIC]
    assert len(streams) >= 39
    for name, stream in streams:
        try:
            whole = fed(answered(client, "anthropic.messages"), stream)
        except UpstreamError:
            # Some of the SDK's own fixtures hold two messages, or none.
            assert name.endswith((".txt", ".sse")), name
            continue
        check(client, whole)
        for size in SIZES[1:]:
            assert fed(answered(client, "anthropic.messages"), stream, size) == whole, name
        if client == "openai.chat":
            document = fed(answered(client, "anthropic.messages", to_stream=False), stream)
            ChatCompletion.model_validate(json.loads(document))


def test_the_sdks_accumulators_read_the_same() -> None:
    for record in recorded("/chat/completions"):
        stream = record["sse"].encode()
        out = fed(answered("anthropic.messages", "openai.chat"), stream)
        snapshot: Any = None
        buffers: dict[int, bytes] = {}
        for _, data in events_of(out):
            if data["type"] == "error":
                break
            event = MESSAGE_EVENT.validate_python(data)
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
        assert snapshot is not None
        if snapshot.stop_reason is None:  # an error ended it
            continue
        document = json.loads(fed(answered("anthropic.messages", "openai.chat", to_stream=False), stream))
        final = json.loads(snapshot.to_json())
        for block in (*final["content"], *document["content"]):
            block.pop("citations", None)
            block.pop("parsed_output", None)
        assert final["content"] == document["content"], record["id"]
        assert final["usage"]["output_tokens"] == document["usage"]["output_tokens"]
        assert final["usage"]["input_tokens"] == document["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("path", "client", "upstream"),
    [
        ("/messages", "anthropic.messages", "openai.chat"),
        ("/chat/completions", "openai.chat", "anthropic.messages"),
        ("/responses", "openai.responses", "openai.chat"),
        ("/responses", "openai.responses", "anthropic.messages"),
    ],
)
def test_recorded_requests(path: str, client: str, upstream: str) -> None:
    translated = refused = 0
    for record in recorded(path):
        body = record["request_json"]
        if not isinstance(body, dict) or not body:
            continue
        try:
            out = asked(client, upstream, body, drops=True)
        except BadRequest as error:
            refused += 1
            assert error.param, (record["id"], str(error))
            continue
        translated += 1
        told = json.loads(out.body)
        assert told["model"] == "theirs"
        assert told["messages"]
        assert len(out.body) <= 4 * len(json.dumps(body)) + 65536
    assert translated > 20, (translated, refused)


def test_a_stream_that_is_mutated_breaks_no_grammar() -> None:
    for record in recorded("/chat/completions")[:60]:
        events = record["sse"].encode().split(b"\n\n")
        for at in range(min(len(events) - 2, 12)):
            for mutated in (
                events[:at] + events[at + 1 :],
                events[: at + 1] + events[at:],
                [*events[:at], events[at + 1], events[at], *events[at + 2 :]],
            ):
                stream = b"\n\n".join(mutated)
                for client in ("anthropic.messages", "openai.responses"):
                    try:
                        out = fed(answered(client, "openai.chat"), stream)
                    except UpstreamError:
                        continue
                    if client == "openai.responses":
                        responses(out)
                        continue
                    try:
                        messages(out)
                    except json.JSONDecodeError:
                        # A lost or doubled piece of arguments: their text is the upstream's.
                        continue
    assert chat is GRAMMARS["openai.chat"]
