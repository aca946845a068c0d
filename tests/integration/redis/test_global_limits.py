"""Limits over two gateways and a real Redis, as clients meet them; and what holds when Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream
from integration.inside import Inside, inside
from integration.redises import Redis, needs_redis, redis_server
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.records import Allowance, LimitRule, LimitSettings, ModelPrice, StoreSettings

pytestmark = [pytest.mark.integration, needs_redis]
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
DAY = 86_400
PRICES = (ModelPrice("demo", input=1000.0, output=1000.0, cached=1000.0),)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def server(running: Redis) -> Redis:
    running.say("FLUSHALL")
    return running


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat("first")) as upstream:
        yield upstream


def rule(*by: str, name: str = "r", **amounts: Any) -> LimitRule:
    return LimitRule(name=name, by=by, allowance=Allowance(**amounts))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def gateways(
    upstream: FaultyUpstream,
    folder: Path,
    server: Redis,
    *,
    count: int = 2,
    store: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[list[Inside]]:
    """Replicas before one upstream, on one Redis."""
    shared = StoreSettings(port=server.port, **{"timeout_s": 2.0, **(store or {})})
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for number in range(count):
            here = folder / str(number)
            here.mkdir()
            made.append(await stack.enter_async_context(inside(upstream.url, here, store=shared, **settings)))
        yield made


async def ask(gateway: Inside, max_tokens: int = 10) -> Answer:
    """One request of 100 prompt tokens."""
    text = json.dumps({"model": "demo", "messages": [], "max_tokens": max_tokens})
    async with Downstream(gateway.url) as client:
        return await client.ask("POST", CHAT, (text[:-1] + " " * (400 - len(text)) + "}").encode(), JSON)


def left(answer: Answer, unit: str) -> int:
    return int(answer.header(f"x-ratelimit-remaining-{unit}") or -1)


async def test_two_gateways_share_a_rate_and_say_how_it_stands(
    upstream: FaultyUpstream, server: Redis, tmp_path: Path
) -> None:
    rules = (rule("user", name="people", requests_per_minute=60, burst=4),)
    async with gateways(upstream, tmp_path, server, limit_rules=rules) as [one, two]:
        answers = [await ask(one), await ask(two), await ask(one), await ask(two), await ask(one)]
        assert [answer.status for answer in answers] == [200, 200, 200, 200, 429]
        assert [left(answer, "requests") for answer in answers] == [3, 2, 1, 0, 0]
        assert "limit 'people'" in answers[-1].json()["error"]["message"]
        assert answers[-1].header("retry-after") == "1"
        for gateway in (one, two):
            await gateway.at_rest()
    assert len(upstream.requests) == 4


async def test_a_burst_on_both_is_the_burst(upstream: FaultyUpstream, server: Redis, tmp_path: Path) -> None:
    rules = (rule(name="all", requests_per_day=DAY // 3600, burst=20),)
    async with gateways(upstream, tmp_path, server, limit_rules=rules) as both:
        upstream.script(*[faults.chat("x")] * 60)
        answers = await asyncio.gather(*(ask(gateway) for gateway in both * 30))
    assert sorted(answer.status for answer in answers) == [200] * 20 + [429] * 40


async def stands(server: Redis, kind: str) -> str:
    """The first key of a kind, in full, and what it holds."""
    keys = server.say("KEYS", f"rate_limit:*:{kind}:*").split("\r\n")[2::2]
    return server.say("HGETALL" if kind == "c" else "GET", keys[0]) if keys else ""


async def test_tokens_and_money_are_settled_by_what_was_used(
    upstream: FaultyUpstream, server: Redis, tmp_path: Path
) -> None:
    rules = (
        rule("user", name="tokens", tokens_per_day=10_000),
        rule("user", name="money", budget_usd=100.0, budget_period="month"),
    )
    async with gateways(upstream, tmp_path, server, limit_rules=rules, prices=PRICES) as [one, two]:
        first = await ask(one, 900)
        assert left(first, "tokens") == 9000, "reserved"
        await one.at_rest()
        used = 10_000 - left(await ask(two, 0), "tokens") - 100
        assert 0 < used < 100, "what the upstream said it used"
        await two.at_rest()
        deadline = time.monotonic() + 30
        while f"\r\n{2 * used * 1000}\r\n" not in await stands(server, "s"):
            assert time.monotonic() < deadline, (used, await stands(server, "s"))
            await asyncio.sleep(0.01)


async def test_requests_at_once_are_counted_over_both_and_given_back(
    upstream: FaultyUpstream, server: Redis, tmp_path: Path
) -> None:
    rules = (rule(name="slots", concurrency=2),)
    gate = asyncio.Event()
    none_waits = LimitSettings(queue_size=0)
    async with gateways(upstream, tmp_path, server, limit_rules=rules, limits=none_waits) as [one, two]:
        upstream.script(*[faults.held(gate, faults.chat("x"))] * 2)
        running = [asyncio.create_task(ask(gateway)) for gateway in (one, two)]
        await one.until(lambda: one.slots + two.slots == 2)
        assert [(await ask(gateway)).status for gateway in (one, two)] == [503, 503]
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*running)] == [200, 200]
        for gateway in (one, two):
            await gateway.at_rest()
        assert (await ask(one)).status == 200
        await one.at_rest()
        deadline = time.monotonic() + 30
        while await stands(server, "c"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_who_waits_for_another_hosts_lease_gets_it(
    upstream: FaultyUpstream, server: Redis, tmp_path: Path
) -> None:
    rules = (rule(name="slots", concurrency=1),)
    gate = asyncio.Event()
    async with gateways(upstream, tmp_path, server, limit_rules=rules) as [one, two]:
        upstream.script(faults.held(gate, faults.chat("x")))
        first = asyncio.create_task(ask(one))
        await one.until(lambda: one.slots == 1)
        second = asyncio.create_task(ask(two))
        await asyncio.sleep(0.1)
        assert not second.done()
        gate.set()
        assert [(await first).status, (await second).status] == [200, 200]


async def test_a_client_that_leaves_gives_everything_back(
    upstream: FaultyUpstream, server: Redis, tmp_path: Path
) -> None:
    rules = (rule(name="slots", concurrency=5), rule("user", name="money", budget_usd=100.0, budget_period="day"))
    gate = asyncio.Event()
    async with gateways(upstream, tmp_path, server, count=1, limit_rules=rules, prices=PRICES) as [one]:
        upstream.script(*[faults.held(gate, faults.chat("x"))] * 5)
        leaving = [asyncio.create_task(ask(one)) for _ in range(5)]
        await one.until(lambda: one.slots == 5)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await one.at_rest()
        deadline = time.monotonic() + 30
        while await stands(server, "c"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        gate.set()


@pytest.mark.parametrize(("replicas", "admitted"), [(1, 20), (2, 10)])
async def test_alone_a_gateway_admits_its_part_and_nobody_fails(
    upstream: FaultyUpstream, server: Redis, tmp_path: Path, replicas: int, admitted: int
) -> None:
    rules = (rule(name="all", requests_per_day=DAY // 3600, burst=20),)
    how = {"replicas": replicas, "timeout_s": 0.05}
    async with gateways(upstream, tmp_path, server, count=1, store=how, limit_rules=rules) as [one]:
        assert one.plane.redis_parts is not None
        store = one.plane.redis_parts.store
        server.signal(signal.SIGSTOP)
        try:
            for _ in range(4):
                await ask(one)  # until it is found out
            await one.until(lambda: not store.is_up)
            upstream.script(*[faults.chat("x")] * 60)
            answers = [await ask(one) for _ in range(40)]
            async with Downstream(one.url) as client:
                assert (await client.ask("GET", "/readyz")).status == 200
        finally:
            server.signal(signal.SIGCONT)
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) <= admitted
        assert statuses.count(200) >= admitted - 4, "those that asked while it was found out"
        assert await store.ready(10)


async def test_closed_means_closed_but_for_the_admin_server(
    upstream: FaultyUpstream, running: Redis, tmp_path: Path
) -> None:
    rules = (rule(name="all", requests_per_minute=6000),)
    gone = Redis(tmp_path / "nowhere")
    store = {"on_failure": (("rates", "closed"),)}
    async with gateways(upstream, tmp_path, gone, count=1, store=store, limit_rules=rules) as [one]:
        answer = await ask(one)
        assert (answer.status, answer.json()["error"]["code"]) == (503, "store_unavailable")
        async with Downstream(one.url) as client:
            assert (await client.ask("GET", "/livez")).status == 200
        assert len(upstream.requests) == 0


async def test_money_spent_while_alone_is_told_afterwards(upstream: FaultyUpstream, tmp_path: Path) -> None:
    rules = (rule("user", name="money", budget_usd=100.0, budget_period="day"),)
    with redis_server(tmp_path / "redis") as server:
        async with gateways(upstream, tmp_path, server, count=1, limit_rules=rules, prices=PRICES) as [one]:
            assert one.plane.redis_parts is not None
            server.kill()
            store = one.plane.redis_parts.store
            await one.until(lambda: not store.is_up)
            assert (await ask(one)).status == 200
            await one.at_rest()
            server.start()
            deadline = time.monotonic() + 30
            while not await stands(server, "s"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
