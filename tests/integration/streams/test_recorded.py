"""The client gets the bytes that the upstream sent, however they were cut (RELIABILITY R2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpora import ABSENT
from downstream import Downstream
from integration.gateways import gateway_async
from oracles import streams
from upstreams.faulty import FaultyUpstream
from upstreams.recorded import CHUNKINGS, STREAMS, Chunking, recordings, replay

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not STREAMS.exists(), reason=ABSENT),
]

JSON = [("Content-Type", "application/json"), ("Accept", "text/event-stream")]
# Nothing is translated.
SPEAKS = {"dialects": ["openai.chat", "openai.completions", "openai.responses", "anthropic.messages"]}


@pytest.mark.parametrize("chunking", CHUNKINGS)
async def test_the_replay_itself_is_right(chunking: Chunking) -> None:
    async with FaultyUpstream(replay()) as upstream:
        assert await ask_all(upstream.url, chunking) == [recording.body for recording in recordings()]


@pytest.mark.parametrize("chunking", CHUNKINGS)
async def test_recorded_streams_arrive_byte_for_byte_and_their_usage_is_read(
    chunking: Chunking, tmp_path: Path
) -> None:
    log = tmp_path / "access.jsonl"
    async with FaultyUpstream(replay()) as upstream:
        async with gateway_async(upstream.url, settings={"access_log": str(log)}, provider=SPEAKS) as server:
            bodies = await ask_all(server.url, chunking)
        assert [request.body for request in upstream.requests] == [r.ask(chunking) for r in recordings()]
    assert bodies == [recording.body for recording in recordings()]

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    exchanges = [line for line in lines if line["provider"] == "openai"]
    # Three of them broke off with an error event of their own.
    assert [line["outcome"] for line in exchanges].count("truncated") == 3
    assert {line["outcome"] for line in exchanges} == {"complete", "truncated"}
    told = [
        (0, 0, 0) if "usage" in line else (line["tokens_in"], line["tokens_out"], line["tokens_cached"])
        for line in exchanges
    ]
    usages = [streams.scan(recording.body)[0] for recording in recordings()]
    assert told == [(0, 0, 0) if usage is None else usage[:3] for usage in usages]


@pytest.mark.parametrize(("chunking", "model"), [("1 byte", "demo"), ("coalesced", "the/alias é")])
async def test_usage_that_only_the_gateway_asked_for_is_the_only_event_missing(
    chunking: Chunking, model: str, tmp_path: Path
) -> None:
    log = tmp_path / "access.jsonl"
    provider = {"aliases": {"the/alias é": "demo"}, **SPEAKS}
    async with FaultyUpstream(replay()) as upstream:
        async with gateway_async(upstream.url, settings={"access_log": str(log)}, provider=provider) as server:
            bodies = await ask_all(server.url, chunking, model, asks_usage=False)
    wrong = []
    for recording, body in zip(recordings(), bodies, strict=True):
        asked = recording.path in ("/v1/chat/completions", "/v1/completions")
        left = streams.without_usage(recording.body) if asked else recording.body
        if body != (left if model == "demo" else streams.rewrite(left, model)):
            wrong.append(recording.name)
    assert not wrong
    told = [json.loads(line) for line in log.read_text().splitlines()]
    counted = [line["tokens_out"] for line in told if line["provider"] == "openai" and "usage" not in line]
    usages = [streams.scan(recording.body)[0] for recording in recordings()]
    assert counted == [usage[1] for usage in usages if usage is not None]


@pytest.mark.parametrize("chunking", ["whole", "7 bytes", "coalesced"])
async def test_an_aliased_models_name_is_the_only_change(chunking: Chunking) -> None:
    alias = "the/alias é"
    async with FaultyUpstream(replay()) as upstream:
        async with gateway_async(upstream.url, provider={"aliases": {alias: "demo"}, **SPEAKS}) as server:
            bodies = await ask_all(server.url, chunking, model=alias)
        assert {json.loads(request.body)["model"] for request in upstream.requests} == {"demo"}
    wrong = [
        recording.name
        for recording, body in zip(recordings(), bodies, strict=True)
        if body != streams.rewrite(recording.body, alias)
    ]
    assert not wrong


async def ask_all(url: str, chunking: Chunking, model: str = "demo", *, asks_usage: bool = True) -> list[bytes]:
    """The bodies of all recordings, asked for one after the other over one kept-alive connection."""
    bodies = []
    async with Downstream(url) as client:
        for recording in recordings():
            client.bytes_read.clear()
            answer = await client.ask(
                "POST", recording.path, recording.ask(chunking, model, asks_usage=asks_usage), JSON
            )
            assert answer.status == 200, (recording.name, bytes(answer.body[:500]))
            assert answer.is_complete, recording.name
            bodies.append(bytes(answer.body))
    return bodies
