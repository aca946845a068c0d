"""Limits over several workers, against a real Redis: exact, all or nothing, and nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from integration.redises import Redis, needs_redis, redis_server

from budgateway.limits.demand import Adjustment, Admission, Demand, Kind, Release
from budgateway.limits.redis_limits import RedisLimits
from budgateway.records import StoreSettings
from budgateway.redis.client import Store

pytestmark = [pytest.mark.integration, needs_redis]
LOOPS = ("uvloop",)

PATIENT_S = 5.0
KEY = "rate_limit:{budgateway}:"
SLOW = Demand("slow", Kind.RATE, limit=60, cost=1, burst=20, period_s=3600)
SLOTS = Demand("slots", Kind.CONCURRENCY, limit=5, cost=1)


def budget(cost: int = 10, ends_s: int = 0) -> Demand:
    return Demand("money", Kind.SPEND, limit=1000, cost=cost, period_s=86_400, ends_s=ends_s or int(time.time()) + 3600)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def server(running: Redis) -> Redis:
    running.say("FLUSHALL")
    running.say("CONFIG", "RESETSTAT")
    return running


@contextlib.asynccontextmanager
async def worker(
    server: Redis, name: str = "w1", *, lease_s: float = 4.0, **settings: object
) -> AsyncIterator[RedisLimits]:
    """The limits of one worker."""
    store = Store(StoreSettings(port=server.port, **{"timeout_s": PATIENT_S, **settings}))  # type: ignore[arg-type]
    store.open()
    try:
        assert await store.ready(10)
        limits = RedisLimits(store, namespace="budgateway", worker=name, lease_s=lease_s)
        limits.open()
        try:
            yield limits
        finally:
            limits.close()
    finally:
        await store.close()


async def decided(limits: RedisLimits, *demands: Demand) -> Admission:
    verdict = await limits.decide(demands)
    assert verdict is not None, "redis did not answer"
    return verdict


async def admitted(limits: RedisLimits, count: int, *demands: Demand) -> int:
    verdicts = await asyncio.gather(*(decided(limits, *demands) for _ in range(count)))
    return sum(verdict.refused_by < 0 for verdict in verdicts)


async def settled(server: Redis, limits: RedisLimits) -> None:
    """Until what was fired and forgotten is there: calls are in order."""
    await decided(limits, Demand("last", Kind.RATE, 1_000_000, 0, burst=1000, period_s=1))


async def test_a_turns_decisions_are_one_round_trip(server: Redis) -> None:
    async with worker(server) as limits:
        await admitted(limits, 1, SLOW)  # the script is there now
        before, calls = server.calls("evalsha"), limits.tally.calls
        assert await admitted(limits, 80, SLOW, SLOTS) == 5
        assert server.calls("evalsha") - before == 1
        assert limits.tally.calls == calls + 1


async def test_more_than_a_calls_worth_still_travels_in_one_write(server: Redis) -> None:
    async with worker(server) as limits:
        assert await admitted(limits, 1000, SLOW) == 20
        assert limits.tally.calls == 4


async def test_a_burst_then_a_refusal_with_the_wait(server: Redis) -> None:
    async with worker(server) as limits:
        assert await admitted(limits, 20, SLOW) == 20
        verdict = await decided(limits, SLOW)
    assert verdict.refused_by == 0
    assert 55 < verdict.retry_after_s <= 60
    assert verdict.states[0].remaining == 0
    assert 1195 < verdict.states[0].reset_s <= 1200


async def test_a_refused_decision_consumes_nothing_of_any_dimension(server: Redis) -> None:
    async with worker(server) as limits:
        assert await admitted(limits, 100, budget(), SLOTS, SLOW) == 5
        # Refused by SLOTS in the middle: what stands before and behind it is untouched by the 95.
        slow = await decided(limits, SLOW._replace(cost=0))
        money = await decided(limits, budget(0))
    assert slow.states[0].remaining == 15
    assert money.states[0].remaining == 950


async def test_workers_share_one_limit(server: Redis) -> None:
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(server, f"w{number}")) for number in range(8)]
        counts = await asyncio.gather(*(admitted(one, 10, SLOW, SLOTS) for one in workers))
        assert sum(counts) == 5
        counts = await asyncio.gather(*(admitted(one, 10, SLOW) for one in workers))
        assert sum(counts) == 15


async def test_a_released_slot_is_had_by_another_worker_in_the_same_call(server: Redis) -> None:
    async with worker(server, "w1") as first, worker(server, "w2") as second:
        verdict = await decided(first, SLOTS)
        assert await admitted(second, 10, SLOTS) == 4
        first.release([Release(verdict.lease, (SLOTS.key,))])
        await settled(server, first)
        assert await admitted(second, 10, SLOTS) == 1
        assert server.say("HGETALL", KEY + "c:slots").split()[-1] == "5"


async def free_after(server: Redis, lease_s: float) -> float:
    """Seconds from a worker's last sign of life to when its leases are had by another."""
    async with worker(server, "w1", lease_s=lease_s) as dying, worker(server, "w2", lease_s=lease_s) as other:
        assert await admitted(dying, 5, SLOTS) == 5
        dying._timer.cancel()  # type: ignore[union-attr]  # no more signs of life
        began = time.monotonic()
        assert await admitted(other, 1, SLOTS) == 0
        while not await admitted(other, 1, SLOTS):
            await asyncio.sleep(lease_s / 40)
            assert time.monotonic() - began < 40
        return time.monotonic() - began


async def test_a_dead_workers_leases_are_free_after_four_beats(server: Redis) -> None:
    assert await free_after(server, 0.4) > 0.35


@pytest.mark.soak
async def test_a_killed_workers_leases_are_free_within_five_seconds(server: Redis) -> None:
    assert 3.5 < await free_after(server, 4.0) < 6


async def test_a_live_workers_leases_last(server: Redis) -> None:
    async with worker(server, "w1", lease_s=0.8) as holding, worker(server, "w2", lease_s=0.8) as other:
        assert await admitted(holding, 5, SLOTS) == 5
        await asyncio.sleep(1.5)
        assert await admitted(other, 1, SLOTS) == 0


async def test_leases_are_said_again_when_redis_lost_them(server: Redis) -> None:
    async with worker(server, "w1", lease_s=0.8) as holding, worker(server, "w2") as other:
        assert await admitted(holding, 5, SLOTS) == 5
        server.say("FLUSHALL")
        deadline = time.monotonic() + 4  # before they are repeated anyway
        while f"{KEY}c:slots" not in server.say("KEYS", "*"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert await admitted(other, 5, SLOTS) == 0


async def test_whoever_is_cancelled_has_taken_nothing(server: Redis) -> None:
    loop = asyncio.get_running_loop()
    async with worker(server) as limits:
        for turns in range(40):  # at every point between asking and being told
            tasks = [loop.create_task(decided(limits, SLOTS, SLOW, budget())) for _ in range(3)]
            for _ in range(turns % 8):
                await asyncio.sleep(0)
            if turns >= 20:
                await asyncio.sleep(turns * 2e-5)
            for task in tasks:
                task.cancel()
            for verdict in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(verdict, Admission) and verdict.refused_by < 0:
                    limits.release([Release(verdict.lease, (SLOTS.key,))])
                    limits.settle([Adjustment(SLOW, -1), Adjustment(budget(), -10)])
            del tasks, verdict
        await settled(server, limits)
        await settled(server, limits)
        assert limits._held == {}
        found = await decided(limits, SLOTS._replace(cost=0), SLOW._replace(cost=0), budget(0))
    assert [state.remaining for state in found.states] == [5, 20, 1000]


async def test_an_answer_that_nobody_took_is_given_back(server: Redis) -> None:
    async with worker(server) as limits:
        waiting = limits.decide([SLOTS, SLOW])  # its task is cancelled before its first step
        while not limits._held:
            await asyncio.sleep(0.001)
        waiting.close()
        await settled(server, limits)
        assert limits._held == {}
        found = await decided(limits, SLOTS._replace(cost=0), SLOW._replace(cost=0))
    assert [state.remaining for state in found.states] == [5, 20]


async def test_settlements_debit_more_and_give_back(server: Redis) -> None:
    tokens = Demand("tokens", Kind.RATE, limit=6000, cost=1000, burst=2000, period_s=3600)
    async with worker(server) as limits:
        await decided(limits, tokens, budget(100))
        limits.settle([Adjustment(tokens, -700), Adjustment(budget(100), 250)])
        found = await decided(limits, tokens._replace(cost=0), budget(0))
        assert [state.remaining for state in found.states] == [1700, 650]
        limits.settle([Adjustment(tokens, 5000), Adjustment(budget(0), 5000)])
        found = await decided(limits, tokens, budget(0))
        # In debt: the whole burst, what it owes, and what is asked for.
        assert found.refused_by == 0
        assert found.retry_after_s == pytest.approx((5000 + 300 - 2000 + 1000) / 6000 * 3600, rel=0.01)
        limits.settle([Adjustment(tokens, -50_000), Adjustment(budget(0), -50_000)])
        found = await decided(limits, tokens._replace(cost=0), budget(0))
        assert [state.remaining for state in found.states] == [2000, 1000], "never fuller than full"


async def test_a_period_that_ended_is_left_alone(server: Redis) -> None:
    async with worker(server) as limits:
        old, new = budget(100, int(time.time()) - 10), budget(0)
        limits.settle([Adjustment(old, 500)])
        assert (await decided(limits, new)).states[0].remaining == 1000


async def test_flushed_scripts_are_sent_again_and_nobody_notices(server: Redis) -> None:
    async with worker(server) as limits:
        assert await admitted(limits, 5, SLOW) == 5
        server.say("SCRIPT", "FLUSH")
        assert await admitted(limits, 5, SLOW) == 5
        assert limits.tally.fallbacks == 0


@pytest.mark.parametrize("per_minute", [7, 60, 700, 1000, 99_991])
async def test_a_bucket_admits_its_burst_at_once_to_the_unit(server: Redis, per_minute: int) -> None:
    demand = Demand(f"rate {per_minute}", Kind.RATE, per_minute, 1, burst=70, period_s=60)
    async with worker(server) as limits:
        for _ in range(3):
            server.say("FLUSHALL")
            count = await admitted(limits, 80, demand)
            # One call has one time, so nothing refills in between.
            assert count == 70


async def test_a_fast_bucket_admits_no_more_than_its_burst(server: Redis) -> None:
    # Debits are rounded up to a sixteenth of a microsecond each, which such a limit feels.
    tokens = Demand("tokens", Kind.RATE, 7_000_000, 1000, burst=70_000, period_s=60)
    async with worker(server) as limits:
        assert 69 <= await admitted(limits, 80, tokens) <= 70
        server.say("FLUSHALL")
        assert 69 <= await admitted(limits, 80, tokens._replace(cost=1, burst=70)) <= 70


async def test_every_key_expires_and_shares_one_slot(server: Redis) -> None:
    async with worker(server) as limits:
        await admitted(limits, 3, SLOW, SLOTS, budget(), Demand("x" * 5000, Kind.RATE, 10, 1, 5, 60))
        keys = server.say("KEYS", "*").split("\r\n")[2::2]
    assert len(keys) == 6, "four limits, the holders and the probe"
    assert all(key.startswith(KEY) and len(key) < 300 for key in keys)
    assert all(int(server.say("PTTL", key)[1:]) > 0 for key in keys)


async def pressed(server: Redis, demand: Demand, workers: int, seconds: float, load: float) -> list[float]:
    """Times of what was admitted while `workers` together ask for `load` times the limit."""
    times: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        all_of_them = [await stack.enter_async_context(worker(server, f"w{number}")) for number in range(workers)]
        began = time.monotonic()
        pause = workers / (load * demand.limit / demand.period_s)

        async def press(limits: RedisLimits) -> None:
            due = began
            while (now := time.monotonic()) < began + seconds:
                due += pause
                await asyncio.sleep(max(0.0, due - now))
                if await admitted(limits, 1, demand):
                    times.append(time.monotonic())

        await asyncio.gather(*(press(limits) for limits in all_of_them))
    return times


@pytest.mark.alone
async def test_eight_workers_under_five_times_the_load_admit_the_limit(server: Redis) -> None:
    demand = Demand("pressed", Kind.RATE, limit=24_000, cost=1, burst=100, period_s=60)
    times = await pressed(server, demand, workers=8, seconds=2, load=5)
    elapsed = times[-1] - times[0]
    ideal = demand.burst + elapsed * demand.limit / demand.period_s
    # What nobody asks for while the machine is busy is lost once the bucket is full.
    assert 0.9 * ideal <= len(times) <= 1.01 * ideal
    # Never above limit and burst, whatever the window; replies may be a little late, all of them alike.
    for before in range(0, len(times), 5):
        for after in range(before, len(times), 5):
            most = demand.burst + (times[after] - times[before] + 0.01) * demand.limit / demand.period_s
            assert after - before + 1 <= most + 1
