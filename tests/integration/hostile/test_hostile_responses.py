"""Hostile answers, as others collected them: the client gets one clean response or 502, never a second (RELIABILITY 3.12)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from corpora import ABSENT, FOLDER
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import Answer as Script
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

LLHTTP = FOLDER / "http1-llhttp" / "vectors.jsonl"

pytestmark = [pytest.mark.integration, pytest.mark.skipif(not LLHTTP.exists(), reason=ABSENT)]
LOOPS = ("uvloop",)

# What llhttp takes and we do not (RELIABILITY 3.12): an upstream speaks HTTP/1.x from its first byte, and its framing can be
# read in one way only.
STRICTER = {
    "llhttp/response/sample/001": "a 200 without a body: no answer to a chat",
    "llhttp/response/sample/002": "RTSP",
    "llhttp/response/sample/003": "ICE",
    "llhttp/response/sample/013": "a 200 without a body: no answer to a chat",
    "llhttp/response/sample/018": "HTTP/0.9",
    "llhttp/response/sample/020": "an empty line before the status line",
    "llhttp/response/transfer-encoding/002": "chunked is not the last coding",
    "llhttp/response/transfer-encoding/003": "two Transfer-Encoding lines",
    "llhttp/response/transfer-encoding/004": "a coding that does not exist",
}

ASK = request_bytes("a", "POST", "/v1/chat/completions", b'{"model":"demo"}', [("Content-Type", "application/json")])


@dataclass(frozen=True, slots=True)
class Vector:
    """A response of an upstream, and whether a strict client accepts it."""

    name: str
    raw: bytes
    accepted: bool


def vectors() -> list[Vector]:
    """The corpus's responses. Lenient verdicts are none of ours: whatever we make of those must be clean."""
    if not LLHTTP.exists():
        return []
    rows = [json.loads(line) for line in LLHTTP.read_text().splitlines()]
    return [
        Vector(row["id"], base64.b64decode(row["raw_b64"]), row["expect"] == "accept" and row["strict"])
        for row in rows
        if row["kind"] == "response"
    ]


def answer_with(raw: bytes, size: int) -> Script:
    """Send it, in pieces of that size, then FIN."""

    async def answer(peer: Peer, request: Received) -> None:
        for at in range(0, len(raw), size or len(raw)):
            if peer.is_gone:
                break
            await peer.send(raw[at : at + (size or len(raw))])
            if size:
                await asyncio.sleep(0)
        peer.close()

    return answer


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat()) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: FaultyUpstream, tmp_path: Path) -> AsyncIterator[Inside]:
    timeouts = {"first_byte_s": 0.5, "chunk_s": 0.5}
    async with inside(upstream.url, tmp_path, timeouts=timeouts) as gateway:
        yield gateway


@pytest.mark.parametrize("size", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
async def test_one_question_one_answer(gateway: Inside, upstream: FaultyUpstream, vector: Vector, size: int) -> None:
    upstream.script(answer_with(vector.raw, size), faults.chat("the next"))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        first = await client.answer()
        await clean(client, first)
        if not client.is_closed:
            await client.send(ASK)
            second = await client.answer()
            assert second.json()["choices"][0]["message"]["content"] in ("the next", "hello")
    with pytest.raises(ConnectionError):
        await client.answer()  # nothing but what was asked for
    await gateway.at_rest()
    # Where it answered oddly, its connection is not used again.
    assert all(connection.requests == 1 for connection in upstream.connections[:1])


async def clean(client: Downstream, answer: Answer) -> None:
    """The first answer is either what the upstream said, cut where it cut, or our own error."""
    if answer.status == 502 and answer.header("content-type") == "application/json":
        # A 200 without a body is no answer to a chat, however well it is framed.
        assert answer.json()["error"]["code"] in ("upstream_protocol", "upstream_error")
        assert answer.is_complete
    names = [name.lower() for name, _ in answer.headers]
    assert len(set(names) & {"content-length", "transfer-encoding"}) <= 1
    assert names.count("content-length") <= 1
    assert not set(names) & {"keep-alive", "upgrade", "trailer", "proxy-connection"}
    assert answer.header("connection") in (None, "close")
    if not answer.is_complete:
        await client.closed()


@pytest.mark.parametrize("vector", [v for v in vectors() if v.accepted], ids=lambda vector: vector.name)
async def test_what_is_right_is_passed_on(gateway: Inside, upstream: FaultyUpstream, vector: Vector) -> None:
    """The status of what the corpus takes, or 502 where we are stricter."""
    upstream.script(answer_with(vector.raw, 0), faults.chat("the next"))
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        answer = await client.answer()
    if vector.name in STRICTER:
        assert answer.status == 502
        return
    said = int(vector.raw.split(b" ")[1][:3])
    # An interim response is no answer, unless one follows it; 101 is one that nobody asked for.
    assert answer.status in ({said} if said >= 200 else {200, 502})
