"""350 recorded provider streams, replayed over real sockets in five chunkings.

    async with FaultyUpstream(recorded.replay()) as upstream:
        ...   # POST recording.path with recording.ask("whole"): the body names the recording, which names the answer

The corpus is test material of others (`llm-streams-cassettes`); it stays outside the project.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from corpora import FOLDER
from upstreams.faults import CHUNKED, EVENT_STREAM
from upstreams.faulty import Answer, Peer
from upstreams.wire import Received, chunk, head

Chunking = Literal["whole", "1 byte", "7 bytes", "inside code points", "coalesced"]
CHUNKINGS: tuple[Chunking, ...] = get_args(Chunking)

STREAMS = FOLDER / "llm-streams-cassettes" / "streams.jsonl"
# Every byte is a chunk of its own, but not a packet: the parsers see the same, and seven million writes take minutes.
WRITE_BYTES = 64 * 1024
# Not a multiple of anything: events, code points and chunks end up across each other.
COALESCED_BYTES = 1361


@dataclass(frozen=True, slots=True)
class Recording:
    """One stream as a provider sent it, and the request that it answered."""

    number: int
    name: str
    path: str
    request: object
    body: bytes

    def ask(self, chunking: Chunking, model: str = "demo", *, asks_usage: bool = True) -> bytes:
        """A request body that `replay` answers with this recording."""
        asked = {"model": model, "stream": True, "recording": self.number, "chunking": chunking}
        if asks_usage:
            asked["stream_options"] = {"include_usage": True}
        return json.dumps(asked | {"messages": [{"role": "user", "content": self.name}]}).encode()


@functools.cache
def recordings() -> tuple[Recording, ...]:
    """All recordings, in the corpus's order; raises FileNotFoundError when the corpus is absent."""
    with STREAMS.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(
        Recording(number, row["id"], path_of(row["uri"]), row["request_json"], row["sse"].encode())
        for number, row in enumerate(rows)
    )


def path_of(uri: str) -> str:
    """Return the path at which a client of a gateway would request this stream."""
    path = urlsplit(uri).path
    for end in ("/chat/completions", "/completions", "/responses", "/messages"):
        if path.endswith(end):
            return f"/v1{end}"
    return "/v1/of-another-api"


def pieces(body: bytes, chunking: Chunking) -> Iterator[bytes]:
    """The body cut into chunks; joined they are the body."""
    match chunking:
        case "whole":
            cuts = [len(body)]
        case "1 byte":
            cuts = list(range(1, len(body) + 1))
        case "7 bytes":
            cuts = [*range(7, len(body), 7), len(body)]
        case "inside code points":
            # After each lead byte of a code point of several, and between the two bytes that end an event.
            cuts = [match.start() + 1 for match in re.finditer(rb"[\xc2-\xf4]|\n\n|\r\n\r\n", body)] + [len(body)]
        case "coalesced":
            cuts = [*range(COALESCED_BYTES, len(body), COALESCED_BYTES), len(body)]
    start = 0
    for end in cuts:
        if end > start:
            yield body[start:end]
        start = end


def replay() -> Answer:
    """Answer each request with the recording and the chunking that its body names."""

    async def answer(peer: Peer, request: Received) -> None:
        asked = json.loads(request.body)
        recording, chunking = recordings()[asked["recording"]], asked["chunking"]
        wire = bytearray(head(200, [EVENT_STREAM, CHUNKED], reason="OK"))
        if chunking not in ("whole", "coalesced"):
            await peer.send(bytes(wire))
            wire.clear()
        for piece in pieces(recording.body, chunking):
            wire += chunk(piece)
            # One write a piece where pieces are few; elsewhere a write ends in the middle of whatever is there.
            if chunking == "inside code points" or len(wire) >= WRITE_BYTES:
                await peer.send(bytes(wire))
                wire.clear()
        await peer.send(bytes(wire) + chunk(b""))

    return answer
