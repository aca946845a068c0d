"""Leased mode against a real Redis: no round trips, within the bound that its docstring states."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from integration.redises import Redis, needs_redis, redis_server

from budgateway.limits.demand import Adjustment, Demand, Kind, Release
from budgateway.limits.leased import LeasedLimits
from budgateway.limits.redis_limits import RedisLimits
from budgateway.records import StoreSettings
from budgateway.redis.client import Store

pytestmark = [pytest.mark.integration, needs_redis]
LOOPS = ("uvloop",)

SLOTS = Demand("slots", Kind.CONCURRENCY, limit=200, cost=1)
MONEY = Demand("money", Kind.SPEND, limit=1_000_000, cost=10, period_s=86_400, ends_s=int(time.time()) + 3600)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def server(running: Redis) -> Redis:
    running.say("FLUSHALL")
    return running


@contextlib.asynccontextmanager
async def leased(server: Redis, count: int, share: float) -> AsyncIterator[list[tuple[LeasedLimits, RedisLimits]]]:
    """Some workers' limits, each with a connection of its own."""
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for number in range(count):
            store = Store(StoreSettings(port=server.port, timeout_s=5))
            stack.push_async_callback(store.close)
            store.open()
            assert await store.ready(10)
            exact = RedisLimits(store, namespace="budgateway", worker=f"w{number}")
            limits = LeasedLimits(exact, share)
            stack.callback(exact.close)
            stack.callback(limits.close)
            exact.open()
            limits.open()
            workers.append((limits, exact))
        yield workers


async def test_a_hot_limit_costs_a_fraction_of_the_round_trips(server: Redis) -> None:
    rate = Demand("rate", Kind.RATE, limit=1_000_000, cost=1, burst=100_000, period_s=60)
    async with leased(server, 1, 0.01) as [(limits, exact)]:
        for _ in range(5000):
            verdict = await limits.decide([rate, SLOTS, MONEY])
            assert verdict is not None
            assert verdict.refused_by < 0
            limits.release([Release(verdict.lease, (SLOTS.key,))])
        assert exact.tally.calls < 50


async def test_no_window_admits_more_than_the_bound_nor_much_less_than_the_limit(server: Redis) -> None:
    workers, share = 4, 0.05
    rate = Demand("rate", Kind.RATE, limit=60_000, cost=1, burst=1000, period_s=60)
    async with leased(server, workers, share) as all_of_them:
        admitted: list[float] = []
        stop = time.monotonic() + 2

        async def press(limits: LeasedLimits) -> None:
            while time.monotonic() < stop:
                verdict = await limits.decide([rate])
                if verdict is not None and verdict.refused_by < 0:
                    admitted.append(time.monotonic())
                else:
                    await asyncio.sleep(0.0002)

        await asyncio.gather(*(press(limits) for limits, _ in all_of_them))
    held = workers * int(share * rate.burst)
    per_s = rate.limit / rate.period_s
    times = sorted(admitted)
    # Every window that begins with an admission: the whole run is one of them.
    excess = max(
        (after - before + 1) - (rate.burst + per_s * (times[after] - times[before]) + held)
        for before in range(0, len(times), 7)
        for after in range(before, len(times), 13)
    )
    assert excess <= 1
    assert len(times) >= (rate.burst + per_s * (times[-1] - times[0])) * 0.97 - held


async def test_what_is_not_used_goes_back_to_all(server: Redis) -> None:
    async with leased(server, 2, 0.25) as [(first, _), (_, exact)]:
        assert await first.decide([SLOTS, MONEY]) is not None
        found = await exact.decide([SLOTS._replace(cost=0), MONEY._replace(cost=0)])
        assert found is not None
        assert [state.remaining for state in found.states] == [149, 749_990]
        deadline = time.monotonic() + 10
        while True:
            found = await exact.decide([SLOTS._replace(cost=0), MONEY._replace(cost=0)])
            assert found is not None
            if [state.remaining for state in found.states] == [199, 999_990]:
                break
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)


async def test_a_limit_too_small_to_share_is_exact(server: Redis) -> None:
    few = Demand("few", Kind.RATE, limit=60, cost=1, burst=10, period_s=3600)
    async with leased(server, 4, 0.05) as workers:
        verdicts = await asyncio.gather(*(limits.decide([few]) for limits, _ in workers for _ in range(10)))
    assert sum(verdict is not None and verdict.refused_by < 0 for verdict in verdicts) == 10


async def test_money_is_exact_in_the_end(server: Redis) -> None:
    async with leased(server, 2, 0.01) as workers:
        for limits, _ in workers:
            for _ in range(100):
                assert await limits.decide([MONEY]) is not None
                limits.settle([Adjustment(MONEY, 5)])
    async with leased(server, 1, 0.01) as [(_, exact)]:
        found = await exact.decide([MONEY._replace(cost=0)])
        assert found is not None
        assert found.states[0].remaining == 1_000_000 - 200 * 15
