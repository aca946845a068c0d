"""Full upstreams: exchanges wait their turn, are refused when that takes too long, and leave with their client."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from integration.operated import CHAT, JSON, PLAIN_BODY, operated
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway import native
from budgateway.observe.metrics import queues

ASK = request_bytes("a", "POST", CHAT, PLAIN_BODY, JSON)


def named(name: str) -> bytes:
    """The same, to be known by at the upstream."""
    return request_bytes("a", "POST", CHAT, PLAIN_BODY, [*JSON, ("X-Request-Id", name)])


class Slow:
    """A model server that answers when it is told to, and knows the most it had to do at a time."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(0)
        self.now = self.most = 0
        self.order: list[str] = []

    async def answer(self, peer: Peer, request: Received) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.order.append(dict(request.headers).get("x-request-id", ""))
        try:
            await self.turns.acquire()
        finally:
            self.now -= 1
        await peer.send(faults.chat_bytes())

    def go_on(self, count: int = 1) -> None:
        for _ in range(count):
            self.turns.release()


@asynccontextmanager
async def full(
    tmp_path: Path, *, limit: int = 1, max_queue: int = 8, timeout_s: float = 20.0
) -> AsyncIterator[tuple[Inside, Slow, FaultyUpstream]]:
    """A gateway before one upstream that takes `limit` exchanges at a time."""
    slow = Slow()
    async with FaultyUpstream(slow.answer) as upstream:
        provider = {"max_queue": max_queue, "queue_timeout_s": timeout_s}
        bound = {"max_in_flight": limit}
        async with inside(upstream.url, tmp_path, provider=provider, upstream=bound) as gateway:
            yield gateway, slow, upstream


def queue_of(gateway: Inside) -> Any:
    return gateway.plane.queues._queues["p"]


async def waiting(gateway: Inside, count: int) -> None:
    await gateway.until(lambda: queue_of(gateway).depth == count, f"{count} in the queue")


@pytest.mark.integration
async def test_who_comes_first_goes_first(tmp_path: Path) -> None:
    async with full(tmp_path) as (gateway, slow, _):
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in range(5)]
            await clients[0].send(named("n0"))
            await gateway.until(lambda: gateway.slots == 1)
            for number, client in enumerate(clients[1:], 1):
                await client.send(named(f"n{number}"))
                await waiting(gateway, number)
            slow.go_on(5)
            assert [(await client.answer()).status for client in clients] == [200] * 5
        assert slow.order == [f"n{number}" for number in range(5)]
        assert slow.most == 1
        await gateway.at_rest()
        await waiting(gateway, 0)


@pytest.mark.integration
async def test_a_full_queue_refuses_and_says_when_to_come_back(tmp_path: Path) -> None:
    async with full(tmp_path, max_queue=1) as (gateway, slow, _), Downstream(gateway.url) as one:
        await one.send(ASK)
        await gateway.until(lambda: gateway.slots == 1)
        async with Downstream(gateway.url) as two, Downstream(gateway.url) as three:
            await two.send(ASK)
            await waiting(gateway, 1)
            await three.send(ASK)
            answer = await three.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")
            assert int(answer.header("retry-after") or 0) >= 1
            slow.go_on(2)
            assert [(await one.answer()).status, (await two.answer()).status] == [200, 200]
        await gateway.at_rest()


@pytest.mark.integration
async def test_a_queue_without_room_is_none(tmp_path: Path) -> None:
    async with full(tmp_path, max_queue=0) as (gateway, slow, _), Downstream(gateway.url) as one:
        await one.send(ASK)
        await gateway.until(lambda: gateway.slots == 1)
        async with Downstream(gateway.url) as two:
            await two.send(ASK)
            assert (await two.answer()).status == 503
        slow.go_on()
        assert (await one.answer()).status == 200


@pytest.mark.integration
async def test_a_wait_that_is_too_long_is_refused(tmp_path: Path) -> None:
    async with full(tmp_path, timeout_s=0.1) as (gateway, slow, upstream), Downstream(gateway.url) as one:
        await one.send(ASK)
        await gateway.until(lambda: gateway.slots == 1)
        async with Downstream(gateway.url) as two:
            await two.send(ASK)
            answer = await two.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")
            assert answer.header("retry-after") is not None
        slow.go_on()
        assert (await one.answer()).status == 200
        assert len(upstream.requests) == 1
        await gateway.at_rest()
        (_, depth, joined, served, timed_out, gone, refused, _) = gateway_counts(gateway)
        assert (depth, joined, served, timed_out, gone, refused) == (0, 1, 0, 1, 0, 0)


def gateway_counts(gateway: Inside) -> tuple[Any, ...]:
    (row,) = native.Queue.collect(gateway.plane._segment)
    return row


@pytest.mark.integration
async def test_a_client_that_leaves_leaves_the_queue_at_once(tmp_path: Path) -> None:
    async with full(tmp_path) as (gateway, slow, upstream), Downstream(gateway.url) as one:
        await one.send(ASK)
        await gateway.until(lambda: gateway.slots == 1)
        async with Downstream(gateway.url) as two, Downstream(gateway.url) as three:
            await two.send(ASK)
            await waiting(gateway, 1)
            await three.send(ASK)
            await waiting(gateway, 2)
            await two.__aexit__(None, None, None)
            await waiting(gateway, 1)
            assert gateway.in_flight == 2
            slow.go_on(2)
            assert (await one.answer()).status == (await three.answer()).status == 200
        await gateway.at_rest()
        assert len(upstream.requests) == 2
        assert gateway_counts(gateway)[5] == 1, "one left"
        lines = await gateway.lines(3)
        assert sorted(line["outcome"] for line in lines) == ["client_gone", "complete", "complete"]


@pytest.mark.integration
async def test_a_reload_keeps_the_order(tmp_path: Path) -> None:
    async with full(tmp_path) as (gateway, slow, _), Downstream(gateway.url) as one, Downstream(gateway.url) as two:
        await one.send(ASK)
        await gateway.until(lambda: gateway.slots == 1)
        await two.send(named("before"))
        await waiting(gateway, 1)
        plane = gateway.plane
        plane.commit(plane.prepare(replace(plane.snapshot.settings, keepalive_s=70.0)))
        async with Downstream(gateway.url) as three:
            await three.send(named("after"))
            await waiting(gateway, 2)
            slow.go_on(3)
            assert [(await each.answer()).status for each in (one, two, three)] == [200, 200, 200]
        assert slow.order[1:] == ["before", "after"]


@pytest.mark.integration
async def test_what_is_left_to_wait_for_nothing_is_told_so(tmp_path: Path) -> None:
    """The upstream is drained while it is full: nobody waits out the timeout."""
    async with full(tmp_path) as (gateway, slow, _), Downstream(gateway.url) as one, Downstream(gateway.url) as two:
        await one.send(ASK)
        await gateway.until(lambda: gateway.slots == 1)
        await two.send(ASK)
        await waiting(gateway, 1)
        room = gateway.plane.snapshot.routes.compiled_routes[0]
        room.destinations[0].balancer.selector.drain(0, True)
        answer = await two.answer()
        assert (answer.status, answer.json()["error"]["code"]) == (503, "no_upstream")
        slow.go_on()
        assert (await one.answer()).status == 200


@pytest.mark.integration
async def test_who_waits_for_one_upstream_is_in_nobodys_way_to_another(tmp_path: Path) -> None:
    """Two upstreams of one provider serve a model each; one of them is full."""
    one, two = Slow(), Slow()
    async with FaultyUpstream(one.answer) as first, FaultyUpstream(two.answer) as second:
        urls = [first.url, second.url]
        async with inside(urls, tmp_path, provider={"max_queue": 3}, upstream={"max_in_flight": 1}) as gateway:
            segment = gateway.plane._segment
            for url, model in zip(urls, ("a", "b"), strict=True):
                segment.set_models(segment.upstream(url), [model])
            gateway.plane._follow_models()
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in range(6)]
                for client, model, depth in zip(clients, "aaabbb", (0, 1, 2, 2, 3, 3), strict=True):
                    body = PLAIN_BODY.replace(b"demo", model.encode())
                    await client.send(request_bytes("a", "POST", CHAT, body, JSON))
                    await gateway.until(lambda: gateway.slots > 0)
                    await waiting(gateway, depth)
                # The bound is over both.
                assert (await clients[5].answer()).status == 503
                await first.until(lambda up: len(up.requests) > 0)
                await second.until(lambda up: len(up.requests) > 0)
                assert (one.now, two.now) == (1, 1)
                two.go_on(2)
                assert [(await clients[number].answer()).status for number in (3, 4)] == [200, 200]
                await waiting(gateway, 2)
                one.go_on(3)
                assert [(await client.answer()).status for client in clients[:3]] == [200, 200, 200]
            (row,) = queues(segment).items()
            assert row[0] == "p" and row[1][:6] == [0, 3, 3, 0, 0, 1]


@pytest.mark.parametrize("limit", [3])
async def test_four_workers_are_never_above_the_limit_and_serve_all(limit: int) -> None:
    """Counted where it matters: at the upstream."""
    slow = Slow()
    slow.go_on(10_000)
    async with FaultyUpstream(short_pause(slow)) as upstream:
        provider = {"endpoints": [{"url": upstream.url, "max_in_flight": limit}], "queue_timeout": 30.0}
        async with operated([upstream.url], workers=4, provider=provider) as gateway:
            ends = await asyncio.gather(*(asks(gateway.url, 5) for _ in range(40)))
            assert [status for found in ends for status in found] == [200] * 200
            assert slow.most == limit
            facts = await gateway.stats()
            assert facts["upstreams"][0]["max_in_flight"] == limit
            assert facts["upstreams"][0]["in_flight"] == 0
            (queue,) = facts["queues"]
            assert (queue["waiting"], queue["timed_out"], queue["left"], queue["refused"]) == (0, 0, 0, 0)
            assert queue["queued"] == queue["served"] > 100
            assert f'budgateway_queued_total{{provider="openai"}} {queue["queued"]}.0' in await gateway.metrics()


def short_pause(slow: Slow) -> Answer:
    async def answer(peer: Peer, request: Received) -> None:
        slow.now += 1
        slow.most = max(slow.most, slow.now)
        await asyncio.sleep(0.005)
        slow.now -= 1
        await peer.send(faults.chat_bytes())

    return answer


async def asks(url: str, count: int) -> list[int]:
    """Requests one after the other, each on a connection of its own, so that they go to any worker."""
    found = []
    for _ in range(count):
        async with Downstream(url) as client:
            found.append((await client.ask("POST", CHAT, PLAIN_BODY, JSON)).status)
    return found


async def test_a_place_goes_to_the_longest_wait_whichever_worker_has_it() -> None:
    """One connection is served by one worker: those of another are not starved by its stream of requests."""
    slow = Slow()
    async with FaultyUpstream(slow.answer) as upstream:
        provider = {"endpoints": [{"url": upstream.url, "max_in_flight": 1}], "queue_timeout": 30.0}
        async with operated([upstream.url], workers=4, provider=provider) as gateway:
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in range(24)]
                for number, client in enumerate(clients):
                    await client.send(named(f"n{number}"))
                    await gateway.until(partial(waits_for, number))
                await gateway.until(lambda facts: facts["in_flight"] >= 24)
                busy = [worker for worker in (await gateway.stats())["workers"] if worker["in_flight"]]
                assert len(busy) > 1, "they all came to one worker"
                slow.go_on(len(clients))
                assert [(await client.answer()).status for client in clients] == [200] * 24
            assert slow.order == [f"n{number}" for number in range(24)]


def waits_for(count: int, facts: dict[str, Any]) -> bool:
    """True when the upstream is busy and this many exchanges wait for it."""
    return facts["upstreams"][0]["in_flight"] > 0 and facts["queues"][0]["waiting"] == count


async def test_a_killed_workers_places_and_waits_are_free() -> None:
    slow = Slow()
    async with FaultyUpstream(slow.answer) as upstream:
        provider = {"endpoints": [{"url": upstream.url, "max_in_flight": 4}], "max_queue": 100}
        async with operated([upstream.url], workers=2, provider=provider) as gateway:
            async with AsyncExitStack() as stack:
                for _ in range(24):
                    client = await stack.enter_async_context(Downstream(gateway.url))
                    await client.send(ASK)
                await gateway.until(partial(waits_for, 20))
                await gateway.until(lambda facts: facts["in_flight"] >= 24)
                victim = max((await gateway.stats())["workers"], key=lambda worker: worker["in_flight"])
                left = 24 - victim["in_flight"]
                assert left >= 4, "they all came to one worker"
                os.kill(victim["pid"], signal.SIGKILL)
                await gateway.until(partial(waits_for, left - 4))
                await upstream.until(lambda up: up.open_connections == 4)
                slow.go_on(100)
                await gateway.until(lambda facts: facts["in_flight"] == 0)
