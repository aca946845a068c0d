"""A worker pool in trouble: everybody refuses, most fail, one comes back; behind several workers, counted at the upstreams."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from downstream import Downstream
from integration.operated import CHAT, JSON, PLAIN_BODY, Operated, operated
from integration.sizes import long
from integration.upstreams.test_health import PROBED, ask, demo_servers, engines, shown, until
from upstreams import faults
from upstreams.faulty import Answer, Peer
from upstreams.matrix import GOOD
from upstreams.wire import Received

pytestmark = pytest.mark.integration

# All that an ejection takes; what is under way when the fifth failure comes is one for each client.
CLIENTS = 16


class Crowd:
    """Clients that ask without pause, each on a connection of its own, and count what they are told."""

    def __init__(self, gateway: Operated, count: int = CLIENTS) -> None:
        self.told: Counter[int] = Counter()
        self._gateway = gateway
        self._count = count

    async def ask_while(self, may: Callable[[], bool]) -> None:
        """Each of them, for as long as it may."""

        async def one() -> None:
            async with Downstream(self._gateway.url) as client:
                while may():
                    self.told[(await client.ask("POST", CHAT, PLAIN_BODY, JSON)).status] += 1

        await asyncio.gather(*(one() for _ in range(self._count)))

    async def ask(self, count: int) -> None:
        """So many requests in all."""
        left = count

        def may() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        await self.ask_while(may)


@pytest.mark.parametrize("asked", [1_500, long("REFUSED", 60_000)])
async def test_when_everybody_refuses_retries_are_a_fifth_and_three(asked: int) -> None:
    """R9: over four workers and many clients at a time; and so is what a fallback is asked."""
    spare = '[providers.spare]\nkind = "openai"\nendpoints = [{}]\nhealth_check_enabled = false\n'
    async with engines((), (), (), (), ()) as upstreams:
        for upstream in upstreams:
            upstream.chat = faults.status(503)
        urls = [upstream.url for upstream in upstreams]
        async with operated(urls[:3], workers=4) as gateway:
            gateway.configure(urls[:3], route={"fallback": ["spare"]})
            with (gateway.folder / "providers.toml").open("a") as file:
                file.write(spare.format(", ".join(f'"{url}"' for url in urls[3:])))
            assert (await gateway.call("POST", "/admin/reload-config"))[0] == 200
            crowd = Crowd(gateway)
            await crowd.ask(asked)
            assert crowd.told == {503: asked}
            metrics = await gateway.metrics()
        first, second = sum(one.chats for one in upstreams[:3]), sum(one.chats for one in upstreams[3:])
        print(f"{asked} asked: {first} at the provider, {second} at its fallback")
        for chats in (first, second):
            # Nearly all that may be asked again is: the budget is spent, not avoided.
            assert asked * 1.19 - 3 < chats <= asked * 1.2 + 3
        counted = [line.rpartition(" ")[2] for line in metrics.splitlines() if "_retries_total{" in line]
        assert sum(map(float, counted)) == first + second - asked


def timed(times: list[float]) -> Answer:
    """A chat answer that notes when it was asked for."""
    right = faults.chat()

    async def answer(peer: Peer, request: Received) -> None:
        times.append(time.monotonic())
        await right(peer, request)

    return answer


@pytest.mark.parametrize(
    ("seconds", "policy"), [(4, "round_robin"), long("RAMP", 60, "round_robin"), long("RAMP", 60, "least_connections")]
)
async def test_who_comes_back_gets_its_share_little_by_little(seconds: int, policy: str) -> None:
    """R11: one of two was ejected; in each tenth of the ramp its share is within 10 % of what it is to be, or as near as
    chance lets a share of so few requests be (three standard deviations). Nobody probes: what a busy machine keeps waiting
    would be another ramp."""
    extra = "[outlier_ejection]\nejection_time = 1\n"
    times: list[list[float]] = [[], []]
    async with engines((), ()) as upstreams:
        upstreams[0].chat = timed(times[0])
        upstreams[1].chat = faults.status(500)
        urls = [upstream.url for upstream in upstreams]
        route = {"load_balancer": policy}
        async with operated(urls, provider={"slow_start": seconds}, extra=extra, route=route) as gateway:
            while (await shown(gateway))[1]["state"] != "ejected":
                await ask(gateway.url, 4)
            upstreams[1].chat = timed(times[1])
            crowd = Crowd(gateway)
            asking = [True]
            crowding = asyncio.create_task(crowd.ask_while(lambda: asking[0]))
            # Its share tells when the ramp began, as exactly as the quickest of some questions was answered.
            told: list[tuple[float, float]] = []
            while len(told) < 10:
                before = time.monotonic()
                _, second = await shown(gateway)
                after = time.monotonic()
                if second["state"] == "starting" and second["share"] > 0.02:
                    told.append((after - before, (before + after) / 2 - second["share"] * seconds))
            _, began = min(told)
            await asyncio.sleep(began + seconds * 1.1 - time.monotonic())
            asking[0] = False
            await crowding
            assert set(crowd.told) == {200}
    found = []
    for tenth in range(11):
        since, end = (began + seconds * at / 10 for at in (tenth, tenth + 1))
        other, its = (sum(since <= at < end for at in one) for one in times)
        # Of each request, by when it came: they do not come evenly.
        ramps = [min(1.0, max(0.02, (at - began) / seconds)) for one in times for at in one if since <= at < end]
        expected = sum(ramp / (1 + ramp) for ramp in ramps) / len(ramps)
        sigma = math.sqrt(expected * (1 - expected) / (its + other))
        found.append((its / (its + other), expected, its + other, sigma))
    print(policy, [f"{share:.3f} of {asked}, not {expected:.3f}" for share, expected, asked, _ in found])
    for share, expected, _, sigma in found:
        assert abs(share - expected) <= max(0.1 * expected, 3 * sigma), found


@pytest.mark.parametrize("fault", ["500", "reset"])
async def test_with_three_of_four_failing_the_fourth_answers_without_a_breaker(fault: str) -> None:
    """R12, as the gateway is when nobody configures anything but how long an ejection is."""
    extra = "[outlier_ejection]\nejection_time = 5\n"
    bad = faults.status(500) if fault == "500" else faults.cut(GOOD, 0, reset=True)
    async with engines((), (), (), ()) as upstreams:
        urls = [upstream.url for upstream in upstreams]
        async with operated(urls, provider={"slow_start": 0}, extra=extra) as gateway:
            for upstream in upstreams[:3]:
                upstream.chat = bad
            began = time.monotonic()
            crowd = Crowd(gateway)
            await crowd.ask(400)
            # Five failures each, and what was under way; again whenever one's time is over: none is shorter than 4.25 s.
            turns = 1 + (time.monotonic() - began) // 4.25
            asked = sum(upstream.chats for upstream in upstreams[:3])
            assert asked <= 3 * turns * (5 + CLIENTS)
            assert crowd.told[200] >= 400 - asked
            assert all(one["state"] == "ejected" for one in (await shown(gateway))[:3])
            assert [one["ejections"]["aside"] for one in await shown(gateway)].count(True) == 1
            assert (await gateway.call("GET", "/admin/providers/health"))[1]["providers"][0]["panic"] is False
            for upstream in upstreams:
                upstream.chat = faults.chat()
            await until(gateway, lambda found: all(one["state"] == "up" for one in found))
            before = [upstream.chats for upstream in upstreams]
            assert await ask(gateway.url, 80) == {200: 80}
            gained = [upstream.chats - had for upstream, had in zip(upstreams, before, strict=True)]
            assert min(gained) >= 15, gained


@pytest.mark.parametrize("seconds", [long("FAILING", 60)])
async def test_the_error_rate_of_a_minute_with_three_of_four_failing(seconds: int) -> None:
    """R12 with all defaults: what fails is what ejections take to find out, once more each time that one is over."""
    async with engines((), (), (), ()) as upstreams, operated([one.url for one in upstreams]) as gateway:
        for upstream in upstreams[:3]:
            upstream.chat = faults.status(500)
        crowd = Crowd(gateway)
        end = time.monotonic() + seconds
        await crowd.ask_while(lambda: time.monotonic() < end)
        print(
            f"{crowd.told} within {seconds} s, failing upstreams asked {sum(one.chats for one in upstreams[:3])} times"
        )
        # Out for 10, 20, 30 s: three times found out within the minute.
        assert crowd.told[500] <= 3 * 3 * (5 + CLIENTS)


async def test_with_three_of_four_stopped_nobody_waits_for_them() -> None:
    """R12 and R16: too few are left for the probes' word to count, but traffic says the same."""
    async with demo_servers(4) as servers:
        async with operated([server.url for server in servers], kind="vllm", provider=PROBED) as gateway:
            await until(gateway, lambda found: all((one["probe"] or {}).get("healthy") for one in found))
            for server in servers[:3]:
                server.process.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            try:
                asking = [asyncio.create_task(ask(gateway.url)) for _ in range(40)]
                await until(gateway, lambda found: all(one["state"] == "unhealthy" for one in found[:3]))
                took_s = time.monotonic() - stopped
                providers: list[dict[str, Any]] = (await gateway.call("GET", "/admin/providers/health"))[1]["providers"]
                assert providers[0]["panic"] is True
                began = time.monotonic()
                assert await ask(gateway.url, 60) == {200: 60}
                assert time.monotonic() - began < 15
            finally:
                for server in servers[:3]:
                    server.process.send_signal(signal.SIGCONT)
            assert sum(await asyncio.gather(*asking), Counter()) == {200: 40}
            await until(gateway, lambda found: all(one["state"] in ("starting", "up") for one in found))
    assert took_s < 15
