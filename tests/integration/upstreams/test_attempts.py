"""Reasons and limits for further attempts of an exchange: the rules that the failure matrix does not reach."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.records import Fallback, Retries, RetryLimit

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
OTHER = "/v1/other"
BODY = b'{"model":"demo","messages":[]}'
REFUSES = faults.status(503)


async def ask(gateway: Inside, path: str = CHAT, body: bytes = BODY, kind: str = "application/json") -> int:
    async with Downstream(gateway.url) as client:
        return (await client.ask("POST", path, body, [("Content-Type", kind)])).status


def at(times: list[float], answer: Answer) -> Answer:
    """The same, and when it was asked for."""

    async def noted(peer: Peer, request: Received) -> None:
        times.append(time.monotonic())
        await answer(peer, request)

    return noted


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_no_more_attempts_than_allowed(most: int, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(FaultyUpstream(REFUSES)) for _ in range(4)]
        urls = [upstream.url for upstream in upstreams]
        async with inside(urls, tmp_path, route={"retries": Retries(max_attempts=most)}) as gateway:
            assert await ask(gateway) == 503
            await gateway.at_rest()
        assert sum(len(upstream.requests) for upstream in upstreams) == most


async def test_what_never_reached_an_upstream_costs_no_budget(tmp_path: Path) -> None:
    async with FaultyUpstream() as gone:
        pass
    async with FaultyUpstream(faults.chat()) as good:
        async with inside([gone.url, good.url], tmp_path, retry_limit=RetryLimit(0, 0)) as gateway:
            assert {await ask(gateway) for _ in range(2)} == {200}


async def test_a_retry_that_finds_nobody_costs_no_budget(tmp_path: Path) -> None:
    script = [REFUSES] * 4 + [faults.status(503, retry_after="0"), faults.chat()]
    async with FaultyUpstream(*script) as only:
        async with inside(only.url, tmp_path, retry_limit=RetryLimit(1, 1)) as gateway:
            assert [await ask(gateway) for _ in range(5)] == [503] * 4 + [200]


async def test_who_asks_for_a_moment_gets_it(tmp_path: Path) -> None:
    times: list[float] = []
    async with FaultyUpstream(at(times, faults.status(503, retry_after="1")), at(times, faults.chat())) as only:
        async with inside(only.url, tmp_path) as gateway:
            assert await ask(gateway) == 200
    assert times[1] - times[0] >= 0.95


@pytest.mark.parametrize("asked", [(CHAT, bytes(300 << 10), "audio/wav"), (OTHER,)], ids=["streamed", "no inference"])
async def test_what_cannot_be_sent_again_is_not(asked: Any, tmp_path: Path) -> None:
    async with FaultyUpstream(REFUSES) as one, FaultyUpstream(REFUSES) as two:
        async with inside([one.url, two.url], tmp_path) as gateway:
            assert await ask(gateway, *asked) == 503
            await gateway.at_rest()
        assert len(one.requests) + len(two.requests) == 1


async def test_an_exchange_that_falls_back_leaves_nothing_behind(tmp_path: Path) -> None:
    retries = Retries(max_attempts=2, fallbacks=(Fallback(OTHER),))
    async with FaultyUpstream(REFUSES) as one, FaultyUpstream(REFUSES) as two, FaultyUpstream(REFUSES) as other:
        async with inside(
            [one.url, two.url], tmp_path, beside={OTHER: other.url}, route={"retries": retries}
        ) as gateway:
            assert await ask(gateway) == 503
            await gateway.at_rest()
        assert [len(upstream.requests) for upstream in (one, two, other)] == [1, 1, 1]


async def test_a_fallback_has_attempts_of_its_own(tmp_path: Path) -> None:
    retries = Retries(max_attempts=2, fallbacks=(Fallback(OTHER),))
    script = (faults.status(503, retry_after="0"), faults.chat())
    async with FaultyUpstream(REFUSES) as one, FaultyUpstream(*script) as other:
        async with inside(one.url, tmp_path, beside={OTHER: other.url}, route={"retries": retries}) as gateway:
            assert await ask(gateway) == 200
        assert (len(one.requests), len(other.requests)) == (1, 2)


async def test_a_fallback_is_for_what_the_operator_says(tmp_path: Path) -> None:
    retries = Retries(fallbacks=(Fallback(OTHER),), fallback_on=("5xx",))
    async with FaultyUpstream(faults.status(429), faults.status(500)) as one, FaultyUpstream(faults.chat()) as other:
        async with inside(one.url, tmp_path, beside={OTHER: other.url}, route={"retries": retries}) as gateway:
            assert [await ask(gateway) for _ in range(2)] == [429, 200]
        assert (len(one.requests), len(other.requests)) == (2, 1)
