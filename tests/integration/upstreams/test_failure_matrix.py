"""Every row of the failure matrix, against an upstream alone and with a second one that is well."""

from __future__ import annotations

from pathlib import Path

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream
from upstreams.matrix import EVENTS, ROWS, STREAM, Row, table

from budgateway.native import Metrics

pytestmark = pytest.mark.integration
PAGE = Path(__file__).resolve().parents[3] / "docs" / "failure-modes.md"
CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
REASONS = ("connect", "stale", "broken", "timeout", "pressure", "status", "hedge", "fallback")
IDS = [f"{row.fault}, {row.phase}, {'stream' if row.stream else 'whole'}" for row in ROWS]


def body(stream: bool) -> bytes:
    plain = b'{"model":"demo","messages":[]'
    # EVENTS tell their usage.
    return plain + (b',"stream":true,"stream_options":{"include_usage":true}}' if stream else b"}")


async def ask(gateway: Inside, row: Row) -> Answer:
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes(client.host, "POST", CHAT, body(row.stream), JSON))
        return await client.answer()


def retries(gateway: Inside) -> dict[str, int]:
    """Further attempts counted, by reason."""
    series = Metrics(gateway.plane._segment).collect()
    sums = [sum(one.retries[at] for one in series) for at in range(len(REASONS))]
    return {reason: count for reason, count in zip(REASONS, sums, strict=True) if count}


@pytest.mark.parametrize("row", ROWS, ids=IDS)
async def test_with_nobody_else_to_ask(row: Row, tmp_path: Path) -> None:
    timeouts = {"first_byte_s": 0.3, "chunk_s": 0.3}
    async with FaultyUpstream(row.answer()) as upstream, inside(upstream.url, tmp_path, timeouts=timeouts) as gateway:
        answer = await ask(gateway, row)
        assert answer.status == row.status
        assert answer.is_complete is not row.event
        if row.event:
            *events, last, rest = bytes(answer.body).split(b"\n\n")
            assert rest == b""
            assert [event + b"\n\n" for event in events] == EVENTS[: len(events)]
            assert last.startswith(b'data: {"error"')
        await gateway.at_rest()
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line.get("error", ""), line["attempts"]) == (row.outcome, row.error, 1)
        assert len(upstream.requests) == 1
        if row.kept is not None:
            assert (gateway.idle == 1, not upstream.connections[0].peer_left_ns) == (row.kept, row.kept)
        assert retries(gateway) == {}


@pytest.mark.parametrize("row", [row for row in ROWS if row.retried], ids=lambda row: f"{row.fault}, {row.phase}")
async def test_another_upstream_answers_instead(row: Row, tmp_path: Path) -> None:
    right = faults.raw(STREAM) if row.stream else faults.chat("all is well")
    timeouts = {"first_byte_s": 0.8}
    async with FaultyUpstream(row.answer()) as bad, FaultyUpstream(right) as good:
        async with inside([bad.url, good.url], tmp_path, timeouts=timeouts) as gateway:
            answers = [await ask(gateway, row) for _ in range(2)]
            assert {(answer.status, answer.is_complete) for answer in answers} == {(200, True)}
            assert len({bytes(answer.body) for answer in answers}) == 1
            await gateway.at_rest()
            lines = await gateway.lines(2)
            # A further attempt takes a turn, too: whether the second exchange begins here or there is open.
            twice = sum(line["attempts"] == 2 for line in lines)
            assert twice and {line["attempts"] for line in lines} <= {1, 2}
            assert {line["outcome"] for line in lines} == {"complete"}
            assert retries(gateway) == {row.retried: twice}
            assert (len(bad.requests), len(good.requests)) == (twice, 2)


def test_the_page_shows_the_matrix() -> None:
    assert table() in PAGE.read_text()


async def test_when_all_upstreams_refuse_retries_are_a_fifth_and_three(tmp_path: Path) -> None:
    """R9: a worker pool in trouble is not asked twice for everything."""
    async with FaultyUpstream(faults.status(503)) as one, FaultyUpstream(faults.status(503)) as two:
        async with inside([one.url, two.url], tmp_path) as gateway, Downstream(gateway.url) as client:
            asked = 200
            for _ in range(asked):
                assert (await client.ask("POST", CHAT, body(False), JSON)).status == 503
            assert asked < len(one.requests) + len(two.requests) <= asked * 1.2 + 3
            await gateway.at_rest()
            assert retries(gateway) == {"pressure": len(one.requests) + len(two.requests) - asked}


async def test_a_client_bounds_its_exchange(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.silent()) as upstream, inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            answer = await client.ask("POST", CHAT, body(False), [*JSON, ("X-Request-Timeout", "300ms")])
            assert (answer.status, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        await gateway.at_rest()
