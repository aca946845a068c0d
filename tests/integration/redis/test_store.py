"""The store's client against a real Redis: order, cancellation, deadlines, coming back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from integration.redises import Redis, needs_redis, redis_server

from budgateway.records import StoreSettings
from budgateway.redis.client import Store
from budgateway.redis.reply import StoreError

pytestmark = [pytest.mark.integration, needs_redis]
LOOPS = ("asyncio", "uvloop")

# A loaded machine is not a slow Redis.
PATIENT_S = 0.5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    with redis_server(tmp_path / "redis") as started:
        yield started


@contextlib.asynccontextmanager
async def store_of(server: Redis, *, connections: int = 1, **settings: object) -> AsyncIterator[Store]:
    """A store that is up."""
    store = Store(StoreSettings(port=server.port, **{"timeout_s": PATIENT_S, **settings}), connections=connections)  # type: ignore[arg-type]
    store.open()
    try:
        assert await store.ready(10)
        yield store
    finally:
        await store.close()


async def test_a_reply_reaches_whoever_asked(server: Redis) -> None:
    async with store_of(server) as store:
        replies = await asyncio.gather(*(store.call("ECHO", str(number)) for number in range(1000)))
    assert replies == [str(number).encode() for number in range(1000)]


async def cancelled_at_random(store: Store, commands: int, seed: int) -> tuple[int, int]:
    """Send `commands`, cancel half of them somewhere on the way; how many were answered, and how many wrongly."""
    dice = random.Random(seed)
    loop = asyncio.get_running_loop()
    answered = wrong = sent = 0

    async def ask(name: str) -> None:
        nonlocal answered, wrong
        reply = await store.call("ECHO", name)
        answered += 1
        wrong += reply != name.encode()

    while sent < commands:
        tasks = []
        for _ in range(min(100, commands - sent)):
            sent += 1
            task = loop.create_task(ask(f"{seed}:{sent}"))
            tasks.append(task)
            if dice.random() < 0.5:
                loop.call_later(dice.random() * 0.001, task.cancel)
            if dice.random() < 0.2:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
    return answered, wrong


async def test_a_cancelled_command_leaves_its_reply_to_nobody(server: Redis) -> None:
    async with store_of(server, connections=3) as store:
        answered, wrong = await cancelled_at_random(store, 10_000, 1)
    assert wrong == 0
    assert 1_000 < answered < 9_990


@pytest.mark.soak
async def test_a_hundred_thousand_cancelled_commands(server: Redis) -> None:
    async with store_of(server, connections=3) as store:
        answered, wrong = await cancelled_at_random(store, 100_000, 2)
    assert wrong == 0
    assert answered > 10_000


async def test_a_stopped_redis_costs_a_few_callers_the_deadline_and_the_rest_nothing(server: Redis) -> None:
    async with store_of(server, timeout_s=0.02) as store:
        server.signal(signal.SIGSTOP)
        codes = []
        for _ in range(50):
            with pytest.raises(StoreError) as caught:
                await store.call("ECHO", "x")
            codes.append(caught.value.code)
        server.signal(signal.SIGCONT)
        assert await store.ready(5)
    assert codes.count("TIMEOUT") + codes.count("LOST") == 3
    assert codes.count("DOWN") == 47


async def test_a_late_reply_is_not_the_next_commands(server: Redis) -> None:
    async with store_of(server, timeout_s=0.05) as store:
        with pytest.raises(StoreError, match="in time"):
            await store.call("DEBUG", "SLEEP", "0.2")
        assert store.is_up
        assert await store.call("ECHO", "mine", timeout_s=5) == b"mine"


async def test_down_and_up_are_said_once_each(server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "budgateway.store")
    async with store_of(server) as store:
        caplog.clear()
        server.kill()
        for _ in range(100):
            with pytest.raises(StoreError):
                await store.call("ECHO", "x")
            await asyncio.sleep(0.002)
        server.start()
        assert await store.ready(20)
    said = [record.levelname for record in caplog.records]
    assert said == ["WARNING", "INFO"]
