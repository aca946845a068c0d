"""Bulkheads: one bad upstream cannot use up the gateway, though nobody has configured anything."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from integration.inside import inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.records import Fallback, Retries

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
OTHER = "/v1/other"
THIRD = "/v1/third"
JSON = [("Content-Type", "application/json")]
BODY = b'{"model":"demo","messages":[]}'
ASK = request_bytes("a", "POST", CHAT, BODY, JSON)


async def test_an_upstream_that_is_silent_leaves_room_for_the_others(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.silent()) as bad,
        FaultyUpstream(faults.chat("well")) as good,
        inside(bad.url, tmp_path, beside={OTHER: good.url}, max_connections=40) as gateway,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in range(35)]
        for client in clients:
            await client.send(ASK)
        await gateway.until(lambda: sum(client.has_answer for client in clients) == 15)
        # Half of what the gateway takes, and not one more.
        assert gateway.in_flight == gateway.slots == 20
        for client in clients:
            if client.has_answer:
                answer = await client.answer()
                assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")
                assert (answer.header("retry-after"), answer.header("connection")) == ("2", "close")
                await client.closed()
        for _ in range(10):
            async with Downstream(gateway.url) as client:
                assert (await client.ask("POST", OTHER, BODY, JSON)).status == 200
        await gateway.until(lambda: len(bad.requests) == 20)


async def test_what_is_too_much_for_one_goes_to_another(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.silent()) as bad,
        FaultyUpstream(faults.chat("well")) as good,
        inside([bad.url, good.url], tmp_path, max_connections=20) as gateway,
        AsyncExitStack() as stack,
    ):
        for _ in range(60):
            client = await stack.enter_async_context(Downstream(gateway.url))
            held = len(bad.requests)
            await client.send(ASK)
            while not client.has_answer and len(bad.requests) == held:
                await asyncio.sleep(0)
            if client.has_answer:
                assert (await client.answer()).status == 200
                client.leave()
        assert (len(bad.requests), gateway.in_flight) == (10, 10)
        assert len(good.requests) == 50


@pytest.mark.parametrize(("full", "kept"), [(False, 0), (True, 1)], ids=["fails", "is full"])
async def test_neither_may_the_one_that_others_fall_back_on(full: bool, kept: int, tmp_path: Path) -> None:
    retries = Retries(fallbacks=(Fallback(OTHER),))
    async with (
        FaultyUpstream(faults.silent() if full else faults.status(500)) as bad,
        FaultyUpstream(faults.silent()) as silent,
        FaultyUpstream(faults.chat("well")) as good,
        inside(
            bad.url,
            tmp_path,
            beside={OTHER: silent.url, THIRD: good.url},
            route={"retries": retries},
            upstream={"max_in_flight": kept},
            provider={"max_queue": 0},
            max_connections=40,
        ) as gateway,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in range(35)]
        for client in clients:
            await client.send(ASK)
        await gateway.until(lambda: sum(client.has_answer for client in clients) == 15 - kept)
        assert gateway.in_flight == 20 + kept
        for client in clients:
            if client.has_answer:
                answer = await client.answer()
                assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")
                await client.closed()
        for _ in range(10):
            async with Downstream(gateway.url) as client:
                assert (await client.ask("POST", THIRD, BODY, JSON)).status == 200
        await gateway.until(lambda: len(silent.requests) == 20)


async def test_who_says_how_much_an_upstream_takes_is_believed(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.silent()) as bad,
        inside(bad.url, tmp_path, upstream={"max_in_flight": 18}, max_connections=20) as gateway,
        AsyncExitStack() as stack,
    ):
        for _ in range(18):
            await (await stack.enter_async_context(Downstream(gateway.url))).send(ASK)
        await gateway.until(lambda: len(bad.requests) == 18)
