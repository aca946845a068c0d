"""A second upstream asked beside a slow one: the first valid answer is believed, the other attempt is called off."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from integration.upstreams.test_failure_matrix import CHAT, JSON, body, retries
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.matrix import EVENTS, HEDGED, Hedged, hedged_table
from upstreams.wire import Received

from budgateway.records import Hedge, Retries, RetryLimit

pytestmark = pytest.mark.integration
PAGE = Path(__file__).resolve().parents[3] / "docs" / "failure-modes.md"
SOON = Retries(hedge=Hedge(after_s=0.05))


async def ask(gateway: Inside, *, stream: bool = False, path: str = CHAT) -> Answer:
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes(client.host, "POST", path, body(stream), JSON))
        return await client.answer()


def left(upstream: FaultyUpstream) -> int:
    """Connections that the gateway has closed."""
    return sum(bool(one.peer_left_ns) for one in upstream.connections)


@pytest.mark.parametrize("row", HEDGED, ids=lambda row: f"{row.first}; {row.second}")
async def test_one_answer_whatever_becomes_of_the_two(row: Hedged, tmp_path: Path) -> None:
    timeouts = {"first_byte_s": 1.2, "chunk_s": 1.0}
    async with FaultyUpstream(row.answers[0]()) as one, FaultyUpstream(row.answers[1]()) as two:
        route = {"retries": SOON}
        async with inside([one.url, two.url], tmp_path, route=route, timeouts=timeouts) as gateway:
            answer = await ask(gateway, stream=row.stream)
            assert (answer.status, answer.is_complete) == (row.status, True)
            if row.status == 200 and row.stream:
                assert bytes(answer.body) == b"".join(EVENTS)
            elif row.status == 200:
                assert answer.json()["choices"][0]["message"]["content"] == f"from the {row.winner}"
            await gateway.at_rest()
            (line,) = await gateway.lines(1)
            assert (line["status"], line["attempts"]) == (row.status, 2)
            assert line["outcome"] == ("upstream_failed" if row.status == 504 else "complete")
            if row.winner:
                assert line["upstream"] == {"first": "p/0", "second": "p/1"}[row.winner]
            assert (len(one.requests), len(two.requests)) == (1, 1)
            assert retries(gateway) == {"hedge": 1}
            # Whoever was not heard to the end was told so, at once.
            for name, upstream, answer_of in (("first", one, row.answers[0]), ("second", two, row.answers[1])):
                if name != row.winner and answer_of not in (row.whole):
                    await upstream.until(lambda upstream: left(upstream) == 1)


def test_the_page_shows_the_rows() -> None:
    assert hedged_table() in PAGE.read_text()


@pytest.mark.parametrize("why", ["document", "unsafe", "budget", "quick", "alone", "ill", "attempts"])
async def test_who_is_not_hedged(why: str, tmp_path: Path) -> None:
    first = faults.slow_head(0.25, faults.chat())
    if why == "document":
        first = faults.dribble(faults.chat_bytes(), 40, 0.4)
    elif why == "quick":
        first = faults.chat()
    settings: dict[str, Any] = {"retry_limit": RetryLimit(0, 0)} if why == "budget" else {}
    route = {"retries": Retries(max_attempts=1, hedge=Hedge(0.05)) if why == "attempts" else SOON}
    if why in ("document", "quick"):
        route = {"retries": Retries(hedge=Hedge(1.0))}  # its head is there by then, on a busy machine too
    async with FaultyUpstream(first) as one, FaultyUpstream(faults.chat()) as two:
        urls = [one.url] if why == "alone" else [one.url, two.url]
        async with inside(urls, tmp_path, route=route, **settings) as gateway:
            if why == "ill":
                selector = gateway.plane.snapshot.routes.compiled_routes[0].destinations[0].balancer.selector
                gateway.plane._segment.judge(gateway.plane._segment.upstream(two.url), False, time.monotonic_ns())
                assert selector.look(1, time.monotonic_ns()).healthy is False
            path = "/v1/things" if why == "unsafe" else CHAT
            assert (await ask(gateway, path=path)).status == 200
            await gateway.at_rest()
            assert (len(one.requests), len(two.requests), retries(gateway)) == (1, 0, {})


async def test_a_client_that_leaves_takes_both_along(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.silent()) as one, FaultyUpstream(faults.silent()) as two:
        async with inside([one.url, two.url], tmp_path, route={"retries": SOON}) as gateway:
            async with Downstream(gateway.url) as client:
                await client.send(request_bytes(client.host, "POST", CHAT, body(True), JSON))
                await two.until(lambda upstream: len(upstream.requests) == 1)
                assert gateway.slots == 2
            await gateway.at_rest()
            (line,) = await gateway.lines(1)
            assert (line["outcome"], line["attempts"]) == ("client_gone", 2)
            for upstream in (one, two):
                await upstream.until(lambda upstream: left(upstream) == 1)


async def test_a_second_one_that_cannot_be_reached_is_no_loss(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with FaultyUpstream(faults.slow_head(0.3, faults.chat("from the first"))) as one:
            async with inside([one.url, url], tmp_path, route={"retries": SOON}) as gateway:
                assert (await ask(gateway)).status == 200
                await gateway.at_rest()
                (line,) = await gateway.lines(1)
                assert (line["upstream"], line["attempts"]) == ("p/0", 2)


async def test_late_is_what_is_later_than_most(tmp_path: Path) -> None:
    """By a percentile, streams and documents each by their own: nothing is configured but p90."""
    slow = asyncio.Event()

    async def answer(peer: Peer, request: Received) -> None:
        if slow.is_set():
            await peer.gone()
        else:
            await peer.send(faults.chat_bytes())

    async with FaultyUpstream(answer) as one, FaultyUpstream(faults.chat()) as two:
        route = {"retries": Retries(hedge=Hedge(percentile=90))}
        timeouts = {"first_byte_s": 50.0}
        async with inside([one.url, two.url], tmp_path, route=route, timeouts=timeouts) as gateway:
            async with Downstream(gateway.url) as client:
                for _ in range(31):
                    assert (await client.ask("POST", CHAT, body(False), JSON)).status == 200
                # Too few to tell.
                assert retries(gateway) == {}
                for _ in range(33):
                    assert (await client.ask("POST", CHAT, body(False), JSON)).status == 200
            before = retries(gateway).get("hedge", 0)
            slow.set()
            assert [(await ask(gateway)).status for _ in range(2)] == [200, 200]
            assert retries(gateway)["hedge"] > before
            await gateway.at_rest()


@pytest.mark.parametrize("asked", [300])
async def test_of_many_at_once_each_gets_its_own_answer_once(asked: int, tmp_path: Path) -> None:
    """Whatever upstreams do: nothing is crossed, doubled or left behind."""
    chance = random.Random(5)
    right = faults.echo()

    async def odd(peer: Peer, request: Received) -> None:
        await asyncio.sleep(chance.choice([0, 0, 0.01, 0.02, 0.03, 0.05]))
        what = chance.random()
        if what < 0.05:
            peer.reset()
        elif what < 0.1:
            await faults.status(503)(peer, request)
        elif what < 0.15:
            await faults.stall(faults.chat_bytes(), 20)(peer, request)
        else:
            await right(peer, request)

    rules = Retries(max_attempts=6, hedge=Hedge(0.02))
    async with FaultyUpstream(odd) as one, FaultyUpstream(odd) as two, FaultyUpstream(odd) as three:
        urls = [one.url, two.url, three.url]
        limit = RetryLimit(100, 100)
        timeouts = {"first_byte_s": 2.0, "chunk_s": 2.0}
        async with inside(
            urls, tmp_path, route={"retries": rules}, timeouts=timeouts, retry_limit=limit, outliers=None
        ) as gateway:
            found: Counter[int] = Counter()

            async def client(first: int) -> None:
                async with Downstream(gateway.url) as connection:
                    for number in range(first, asked, 12):
                        sent = json.dumps({"model": "demo", "number": number}).encode()
                        answer = await connection.ask("POST", CHAT, sent, JSON)
                        found[answer.status] += 1
                        if answer.status == 200:
                            assert json.loads(answer.json()["body"])["number"] == number

            await asyncio.gather(*(client(first) for first in range(12)))
            await gateway.at_rest()
            lines = await gateway.lines(asked)
            assert Counter(line["status"] for line in lines) == found
            assert found[200] > asked * 0.9, found
            attempts = sum(line["attempts"] for line in lines)
            hedges = retries(gateway)["hedge"]
            assert hedges > 20
            # A second attempt may be called off while it still dials.
            assert attempts - hedges <= sum(len(upstream.requests) for upstream in (one, two, three)) <= attempts
