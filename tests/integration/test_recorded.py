"""What the upstream sends is what the client gets, byte for byte, however it was cut (RELIABILITY R2)."""

from __future__ import annotations

import pytest
from corpora import ABSENT
from downstream import Downstream
from integration.conftest import FRONTS
from integration.gateways import gateway_async
from upstreams.faulty import FaultyUpstream
from upstreams.recorded import CHUNKINGS, STREAMS, Chunking, recordings, replay

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not STREAMS.exists(), reason=ABSENT),
]

JSON = [("Content-Type", "application/json"), ("Accept", "text/event-stream")]


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("front", FRONTS)
async def test_recorded_streams_arrive_byte_for_byte(front: str, chunking: Chunking) -> None:
    async with FaultyUpstream(replay()) as upstream:
        if front == "direct":
            await ask_all(upstream.url, chunking)
        else:
            async with gateway_async(upstream.url) as server:
                await ask_all(server.url, chunking)
        assert [request.body for request in upstream.requests] == [r.ask(chunking) for r in recordings()]


async def ask_all(url: str, chunking: Chunking) -> None:
    """All recordings over one kept-alive connection."""
    wrong = []
    async with Downstream(url) as client:
        for recording in recordings():
            client.bytes_read.clear()
            answer = await client.ask("POST", recording.path, recording.ask(chunking), JSON)
            assert answer.status == 200, (recording.name, bytes(answer.body[:500]))
            if not answer.is_complete or bytes(answer.body) != recording.body:
                wrong.append(recording.name)
    assert not wrong
