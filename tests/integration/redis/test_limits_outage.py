"""RELIABILITY L2: what clients of a gateway notice when its Redis breaks, beside a gateway whose Redis does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from integration.operated import Operated, operated
from integration.pressed import NS, Passage, Press, excess, gateways, rates, redis_at, token_load, windows
from integration.redises import (
    Redis,
    back,
    full,
    killed,
    needs_redis,
    read_only,
    redis_server,
    slow_proxy,
    stopped,
)
from integration.sizes import long

pytestmark = [pytest.mark.integration, needs_redis]
LOOPS = ("uvloop",)

PER_S = 200  # of both gateways together
ADDED_MS = 5.0
RECOVERY_S = 2.0
PATIENT_S = 0.2
# Nothing is refused here: what is asked is what an outage adds.
RULES = """
[rate_limiting]
[[rate_limiting.rules]]
name = "all"
by = "global"
requests_per_minute = 1000000
burst = 100000
tokens_per_minute = 100000000
concurrency = 1000
"""


def p99_ms(passages: list[Passage], url: str) -> float:
    taken = sorted(passage.answered_ns - passage.sent_ns for passage in passages if passage.url == url)
    return round(taken[int(len(taken) * 0.99)] / 1e6, 2)


async def recovered(gateway: Operated) -> float:
    """Wait until none of its workers misses its Redis: the seconds it took."""
    began = time.monotonic()
    while True:
        lines = [line for line in (await gateway.metrics()).splitlines() if line.startswith("budgateway_store_away")]
        assert lines
        if not any(float(line.split()[-1]) for line in lines):
            return time.monotonic() - began
        assert time.monotonic() - began < 15
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def scripts_are_flushed(server: Redis) -> AsyncIterator[None]:
    """Again and again."""

    async def flush() -> None:
        while True:
            await asyncio.to_thread(server.say, "SCRIPT", "FLUSH")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(flush())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


BREAKS: dict[str, Callable[[Redis], None]] = {
    "killed": killed,
    "stopped": stopped,
    "read-only": read_only,
    "out of memory": full,
}
SLOW_S = {"slow": 0.05, "nearly too slow": 0.003}


@pytest.mark.parametrize(
    ("seconds", "fault"),
    [(1, "stopped"), *(long("OUTAGE_S", 20, fault) for fault in (*BREAKS, *SLOW_S, "scripts flushed"))],
)
async def test_an_outage_costs_clients_next_to_nothing(
    tmp_path: Path, fault: str, seconds: int, request: pytest.FixtureRequest
) -> None:
    is_long = request.node.get_closest_marker("soak") is not None
    # By default a Redis on a loaded machine is away now and then, and how it comes back would be the machine's.
    workers, timeout_s = (4, 0.005) if is_long else (2, PATIENT_S)
    async with contextlib.AsyncExitStack() as stack:
        press = await stack.enter_async_context(Press())
        breaks = stack.enter_context(redis_server(tmp_path / "breaks"))
        holds = stack.enter_context(redis_server(tmp_path / "holds"))
        port, delay = await stack.enter_async_context(slow_proxy(breaks.port))
        ports = (port if fault in SLOW_S else breaks.port, holds.port)
        hit, well = [
            await stack.enter_async_context(
                operated([press.upstream.url], workers=workers, extra=RULES + redis_at(at, timeout_s))
            )
            for at in ports
        ]

        async def phase() -> tuple[float, float]:
            """p99 of both, milliseconds; requests go to them in turn."""
            began = time.monotonic_ns()
            await press.push([hit.url, well.url], "any", PER_S, seconds)
            taken = [passage for passage in press.of("any") if passage.sent_ns >= began]
            return p99_ms(taken, hit.url), p99_ms(taken, well.url)

        await phase()  # connections are made, scripts are there
        healthy = await phase()
        await recovered(hit)  # a loaded machine is a slow Redis, too
        said, broke_ns = len(hit.server.output), time.monotonic_ns()
        if fault == "scripts flushed":
            async with scripts_are_flushed(breaks):
                broken = await phase()
        elif fault in SLOW_S:
            delay[0] = SLOW_S[fault]
            broken = await phase()
            delay[0] = 0
        else:
            BREAKS[fault](breaks)
            broken = await phase()
            back(breaks)
        recovery_s = await recovered(hit)
        lines = [line for line in hit.server.output[said:].splitlines() if "budgateway.store" in line]
        after = await phase()
        await press.let_go()
    hit_then = [passage for passage in press.of("any") if passage.url == hit.url and passage.sent_ns >= broke_ns]
    late = [passage for passage in hit_then if passage.answered_ns - passage.sent_ns >= timeout_s * NS]
    print(
        f"{fault}: {len(press.passages)} requests; p99 ms beside the other: healthy {healthy}, broken {broken}, after "
        f"{after}; added {broken[0] - broken[1]:.2f}; recovered after {recovery_s:.2f} s; {len(lines)} lines, {len(late)} late"
    )
    assert not press.failures
    assert {passage.status for passage in press.of("any")} == {200}
    assert recovery_s <= RECOVERY_S
    if fault in BREAKS or fault == "slow":
        # Once a gateway, not once a worker.
        assert [line.split()[2] for line in lines] == ["WARNING", "INFO"], lines
    if is_long:
        assert broken[0] - broken[1] <= ADDED_MS
    else:
        # Who came before three replies were late has waited for them, and nobody who came afterwards.
        assert len(late) <= PER_S * timeout_s


PER_MINUTE, BURST, TOKENS_PER_MINUTE = 1200, 40, 24_000
LIMITED = "[rate_limiting]\nqueue_size = 0\n" + rates(PER_MINUTE, BURST, TOKENS_PER_MINUTE)


@pytest.mark.parametrize(
    ("fault", "seconds", "workers"),
    [("stopped", 2, 2), *(pytest.param(fault, 15, 4, marks=pytest.mark.soak) for fault in ("stopped", "killed"))],
)
async def test_alone_gateways_admit_no_more_than_together(
    tmp_path: Path, fault: str, seconds: int, workers: int
) -> None:
    """An outage begins with what is left of a limit and, unless Redis lost its memory, ends with what was left of it."""
    async with contextlib.AsyncExitStack() as stack:
        press = await stack.enter_async_context(Press())
        server = stack.enter_context(redis_server(tmp_path / "redis"))
        extra = LIMITED + redis_at(server.port, replicas=2)
        urls = [gateway.url for gateway in await stack.enter_async_context(gateways(press, workers, extra))]
        for phase in ("before", "alone", "after"):
            await asyncio.gather(
                press.push(urls, "rate", 5 * PER_MINUTE / 60, seconds),
                press.push(urls, "tokens", token_load(5, TOKENS_PER_MINUTE, seconds), seconds),
            )
            if phase == "before":
                BREAKS[fault](server)
            elif fault == "killed":
                break  # what it knew is gone
            elif phase == "alone":
                back(server)
        await press.let_go()
    assert not press.failures
    rate, tokens = press.admitted("rate"), press.admitted("tokens")
    figures = []
    for taken, burst, per_minute, of in (
        (rate, BURST, PER_MINUTE, "requests"),
        (tokens, TOKENS_PER_MINUTE, TOKENS_PER_MINUTE, "tokens"),
    ):
        amounts = windows(taken, tokens=of == "tokens")
        lasted = (max(one.sent_ns for one in taken) - min(one.arrived_ns for one in taken)) / NS
        figures.append((sum(amount for *_, amount in amounts), burst + lasted * per_minute / 60))
        print(
            f"{of}: {figures[-1][0]:.0f} admitted, {figures[-1][1]:.1f} allowed, a window's excess {excess(amounts, burst, per_minute / 60):.1f}"
        )
    for admitted, allowed in figures:
        assert admitted <= 1.1 * allowed
        assert admitted >= 0.8 * allowed


@pytest.mark.soak
@pytest.mark.parametrize("whole_host", [False, True], ids=["its workers", "the whole host"])
async def test_leases_of_the_killed_are_free_on_other_hosts(tmp_path: Path, whole_host: bool) -> None:
    """RELIABILITY L3: requests at once that a host held when its processes were killed."""
    rules = '[rate_limiting]\nqueue_size = 0\n[[rate_limiting.rules]]\nname = "slots"\nby = "global"\nconcurrency = 6\n'
    async with contextlib.AsyncExitStack() as stack:
        press = await stack.enter_async_context(Press(hold_s=60))
        server = stack.enter_context(redis_server(tmp_path / "redis"))
        extra = rules + redis_at(server.port, PATIENT_S)
        dying, other = await stack.enter_async_context(gateways(press, 3, extra))
        held = [asyncio.create_task(press.ask(dying.url, "slots")) for _ in range(6)]
        async with asyncio.timeout(10):
            while len(press.admitted("slots")) < 6:
                await asyncio.sleep(0.01)
        # Who lives keeps its own for longer than a lease is.
        for _ in range(8):
            assert (await press.ask(other.url, "any"))[0].status == 503
            await asyncio.sleep(1)
        pids = await dying.pids()
        if whole_host:
            dying.server.process.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        while (await press.ask(other.url, "any"))[0].status == 503:
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < 20
        free_s = time.monotonic() - began
        print(f"free after {free_s:.1f} s")
        assert free_s <= 15
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await press.let_go()
