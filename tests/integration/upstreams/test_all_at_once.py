"""C1: every fault at once, for long. R1 holds throughout; afterwards nothing is held, and all is as it was before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from integration.ledgers import client, upstreams
from integration.operated import Operated, operated
from integration.redises import Redis, back, full, killed, needs_redis, read_only, redis_server, stopped
from integration.sizes import long
from upstreams.ledger import Sight, join, tally
from upstreams.mortal import Mortals

pytestmark = [pytest.mark.integration, needs_redis]
LOOPS = ("uvloop",)

CLIENTS = 24
EVENTS = 100  # of a stream, on average
A_SECOND = 1000  # exchanges: more than this machine makes
# What is still in the memory of a worker that is killed: its lines of a quarter of a second.
TORN_S = 1.0
GAUGES = (
    "budgateway_in_flight",
    "budgateway_websockets",
    "budgateway_upstream_connections_busy",
    "budgateway_queue_depth",
)
LIMITS = """
[redis]
url = "redis://127.0.0.1:{port}"
timeout = 0.02
[[rate_limiting.rules]]
by = "global"
requests_per_minute = 10_000_000
concurrency = 1_000
"""


class Chaos:
    """All that is done to a gateway, its upstreams and its Redis, side by side."""

    def __init__(self, gateway: Operated, servers: Mortals, redis: Redis) -> None:
        self.done: Counter[str] = Counter()
        self.defects: list[Any] = []
        self.worker_deaths: list[float] = []
        self._gateway = gateway
        self._servers = servers
        self._redis = redis
        self._dice = Random(1)

    @asynccontextmanager
    async def reigns(self) -> AsyncIterator[None]:
        """From here to the end of the context; then Redis is back and all upstreams run."""
        doings = [
            self._again(2.0, self._kill_a_worker),
            self._again(0.5, self._reload),
            self._again(1.0, self._break_redis),
            self._again(0.4, self._kill_an_upstream),
            self._again(3.0, self._restart_workers),
        ]
        tasks = [asyncio.create_task(doing) for doing in doings]
        try:
            yield
        finally:
            self._is_over = True
            await asyncio.gather(*tasks)

    _is_over = False

    async def _again(self, pause_s: float, do: Callable[[], Awaitable[None]]) -> None:
        while not self._is_over:
            await asyncio.sleep(pause_s * self._dice.uniform(0.5, 1.5))
            await do()

    async def _kill_a_worker(self) -> None:
        victim = random.choice(await self._gateway.pids() or [0])
        if victim:
            self.worker_deaths.append(time.monotonic())
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            self.worker_deaths.append(time.monotonic())
            self.done["workers killed"] += 1

    async def _reload(self) -> None:
        """Every other one is invalid."""
        number = self.done["reloads"] = self.done["reloads"] + 1
        kind = ["ftp://nowhere"] if number % 2 else self._servers.urls
        self._gateway.configure(kind, settings={"head_timeout": 10.0 + number % 7})
        status, answer = await self._gateway.call("POST", "/admin/reload-config")
        # While a worker is away, or another change is under way, the answer may be no; yes to an invalid one never.
        self.done[f"reload {status}"] += 1
        if status == 500:
            self.defects.append(answer)
        assert not (number % 2 and status == 200)

    async def _restart_workers(self) -> None:
        self._gateway.signal(signal.SIGUSR2)
        self.done["rolling restarts"] += 1

    async def _kill_an_upstream(self) -> None:
        await self._servers.kill(self._dice)
        self.done["upstreams killed"] += 1

    async def _break_redis(self) -> None:
        do = self._dice.choice([killed, stopped, read_only, full])
        await asyncio.to_thread(do, self._redis)
        await asyncio.sleep(self._dice.uniform(0.2, 1.0))
        await asyncio.to_thread(back, self._redis)
        self.done[f"redis {do.__name__}"] += 1


@asynccontextmanager
async def asking(gateway: Operated, numbers: Iterator[int], sights: dict[int, Sight]) -> AsyncIterator[None]:
    """Clients, for as long as the context lasts."""
    stopping = asyncio.Event()

    def until_then() -> Iterator[int]:
        while not stopping.is_set():
            yield next(numbers)

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(gateway.url, until_then(), Random(number), sights, may_tear=True))
        try:
            yield
        finally:
            stopping.set()


def p99_s(sights: dict[int, Sight], since_s: float, until_s: float) -> float:
    """Of the wait for the heads of answers that came whole."""
    waits = [
        one.wait_s for one in sights.values() if one.end == "whole" and since_s <= one.ended_s - one.wait_s < until_s
    ]
    return statistics.quantiles(waits, n=100)[98] if len(waits) > 20 else float("inf")


def resident(facts: dict[str, Any]) -> int:
    """Bytes of the workers together."""
    return sum(worker["rss_bytes"] for worker in facts["workers"])


async def at_rest(gateway: Operated) -> dict[str, Any]:
    """Wait for the end of all that is held: the statistics then."""
    found: dict[str, Any] = {}

    def is_so(facts: dict[str, Any]) -> bool:
        found.update(facts)
        ready = [worker["state"] for worker in facts["workers"]] == ["ready"] * 2
        return ready and facts["in_flight"] == 0 and all(one["in_flight"] == 0 for one in facts["upstreams"])

    try:
        await gateway.until(is_so, 30.0)
    except TimeoutError:
        pytest.fail(f"still held: {found}")
    text = await gateway.metrics()
    gauges = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(GAUGES)
    }
    # The scrape itself is an exchange.
    held = {name: value for name, value in gauges.items() if value and not name.startswith("budgateway_in_flight")}
    assert sum(value for name, value in gauges.items() if name.startswith("budgateway_in_flight")) <= 1, gauges
    assert not {name for name in held if "busy" not in name}, held
    return found


@pytest.mark.parametrize("seconds", [long("CHAOS_SECONDS", 600, timeout_s=1200)])
async def test_everything_at_once(seconds: int, tmp_path: Path) -> None:
    sights: dict[int, Sight] = {}
    numbers = iter(range((seconds + 60) * A_SECOND))
    log = tmp_path / "access.log"
    calm_s = max(3.0, seconds / 20)
    options: dict[str, Any] = {
        "route": {"timeout": 2.0, "chunk_timeout": 1.0},
        "settings": {"access_log": str(log), "drain_timeout": 20.0},
    }
    with redis_server(tmp_path / "redis") as redis:
        async with (
            upstreams(tmp_path, 1, EVENTS, (seconds + 60) * A_SECOND) as servers,
            operated(servers.urls, extra=LIMITS.format(port=redis.port), **options) as gateway,
        ):
            chaos = Chaos(gateway, servers, redis)
            # As it is without all that, and as large.
            async with asking(gateway, numbers, sights):
                await asyncio.sleep(calm_s)
            before_s = p99_s(sights, 0, time.monotonic())
            size_before = resident(await at_rest(gateway))
            spread_above = len(sights)
            async with asking(gateway, numbers, sights):
                async with chaos.reigns():
                    await asyncio.sleep(seconds)
                over_s = time.monotonic()
                await asyncio.sleep(calm_s + 1)
            size_after = resident(await at_rest(gateway))
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended(30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [line for line in lines if line["path"].startswith("/v1/chat")]

    def may_miss(sight: Sight) -> bool:
        return any(abs(death - sight.ended_s) < TORN_S for death in chaos.worker_deaths)

    windows = [p99_s(sights, over_s + at / 2, over_s + at / 2 + 1) for at in range(int(2 * calm_s))]
    allowed_s = 2 * before_s + 0.02
    back_s = next((at / 2 for at, found in enumerate(windows) if found <= allowed_s), float("inf"))
    wrong = join(sights, servers.attempts, lines, kills=True, may_miss=may_miss)
    ends = Counter(one.end for one in sights.values())
    print(
        f"{seconds} s: {len(sights)} exchanges ({spread_above} before), {sum(one.events for one in sights.values())} events, {dict(ends)}, "
        f"{dict(Counter(one.code for one in sights.values() if one.end == 'failed'))}; {dict(chaos.done)}; p99 ms before "
        f"{before_s * 1000:.1f}, after {[round(one * 1000, 1) for one in windows]}; MiB of workers {size_before >> 20}, {size_after >> 20}"
    )
    assert not wrong, (len(wrong), wrong[:5])
    assert not chaos.defects, chaos.defects[:3]
    assert {fault for fault, end in tally(sights, servers.attempts) if end == "cut"} >= {"killed", "stall", "bad chunk"}
    assert chaos.done["workers killed"] and chaos.done["upstreams killed"] and chaos.done["reloads"] > 1
    assert back_s <= 10, windows
    assert size_after <= size_before * 1.05, (size_before, size_after)
