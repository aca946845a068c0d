"""A reload and a scrape disturb nobody: what they cost is done in small steps, by others, or later."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway import native
from budgateway.admin.scrapes import Scrapes
from budgateway.app.dataplane import DataPlane
from budgateway.auth.credential_store import CredentialSet
from budgateway.config.packing import packing
from budgateway.config.reader import Reader
from budgateway.observe.metrics import Exposition
from budgateway.process.control import (
    Abort,
    Channel,
    Commit,
    CredentialsUpdated,
    Message,
    Prepare,
    Prepared,
    UpdateCredentials,
)
from budgateway.process.worker import Worker
from budgateway.records import Provider, Route, Settings, Upstream
from budgateway.system.priority import NICENESS
from budgateway.system.slices import at_once

pytestmark = pytest.mark.integration
JSON = [("content-type", "application/json")]
CHAT = "/v1/chat/completions"


async def reload(gateway: Inside, **changes: Any) -> None:
    """Apply a reload, and let the next sweep pass."""
    plane = gateway.plane
    plane.commit(plane.prepare(replace(plane.snapshot.settings, **changes)))


async def test_a_former_configuration_is_freed_although_its_clients_stay(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat("x")) as upstream,
        inside(upstream.url, tmp_path) as gateway,
        Downstream(gateway.url) as client,
    ):
        for number in range(3):
            await client.ask("POST", CHAT, b'{"model":"m"}', JSON)
            await reload(gateway, keepalive_s=60.0 + number)
            await gateway.until(lambda: not gateway.plane._former, "the end of the former configuration")
        assert (await client.ask("POST", CHAT, b'{"model":"m"}', JSON)).status == 200


async def test_a_former_configuration_lives_as_long_as_its_exchanges(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def answer(peer: Any, request: Any) -> None:
        await gate.wait()
        await faults.chat("x")(peer, request)

    async with (
        FaultyUpstream(answer) as upstream,
        inside(upstream.url, tmp_path) as gateway,
        Downstream(gateway.url) as client,
    ):
        asking = asyncio.create_task(client.ask("POST", CHAT, b'{"model":"m"}', JSON))
        await gateway.until(lambda: len(upstream.requests) == 1)
        routes = len(gateway.plane.snapshot.routes.compiled_routes)
        await reload(gateway, keepalive_s=70.0)
        before = gateway.gauge(native.GAUGE_TICK)
        await gateway.until(lambda: gateway.gauge(native.GAUGE_TICK) > before + 300_000_000, "a whole sweep")
        (former,) = gateway.plane._former
        assert len(former.routes.compiled_routes) == routes
        del former
        gate.set()
        assert (await asking).status == 200
        await gateway.until(lambda: not gateway.plane._former, "the end of the former configuration")


def settings_of(routes: int) -> Settings:
    """Settings with so many routes."""
    upstream = Upstream(url="http://127.0.0.1:9", tls=False, host="127.0.0.1", port=9)
    return Settings(
        host="127.0.0.1", port=0, access_log="off", providers=(Provider("p", "openai", (upstream,)),),
        routes=tuple(Route(name=f"r{n}", path=f"/{n}", provider="p", auth_required=False) for n in range(routes)),
    )  # fmt: skip


@asynccontextmanager
async def worker() -> AsyncIterator[tuple[DataPlane, Channel]]:
    """A worker's data plane, and the supervisor's end of its channel."""
    here, there = socket.socketpair()
    ours, theirs = await Channel.over(here), await Channel.over(there)
    plane = DataPlane(settings_of(1), native.Segment(1), 0, "/nowhere")
    obeying = asyncio.create_task(Worker(plane, theirs).obey())
    try:
        yield plane, ours
    finally:
        ours.close()
        await obeying
        await plane.close()
        theirs.close()


async def answers(channel: Channel, count: int) -> list[Message | None]:
    """The next messages of a worker."""
    return [await channel.receive() for _ in range(count)]


async def test_a_revoked_key_does_not_wait_for_a_configuration_that_is_prepared() -> None:
    async with worker() as (plane, channel):
        await channel.send(Prepare(1, at_once(packing(settings_of(800)))))
        await channel.send(UpdateCredentials(CredentialSet(number=7)))
        assert await answers(channel, 2) == [CredentialsUpdated(7), Prepared(1)]
        await channel.send(Commit(1))
        await channel.send(UpdateCredentials(CredentialSet(number=8)))
        await channel.receive()
        assert len(plane.snapshot.settings.routes) == 800


async def test_a_configuration_that_is_not_wanted_any_more_is_not_prepared_to_the_end() -> None:
    async with worker() as (plane, channel):
        await channel.send(Prepare(1, at_once(packing(settings_of(800)))))
        await channel.send(Abort(1))
        await channel.send(Prepare(2, at_once(packing(settings_of(2)))))
        assert await channel.receive() == Prepared(2)
        await channel.send(Abort(2))
        await channel.send(UpdateCredentials(CredentialSet(number=8)))
        assert await channel.receive() == CredentialsUpdated(8)
        assert len(plane.snapshot.settings.routes) == 1


def test_the_process_that_reads_a_reload_gives_way_to_workers() -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    with closing(Reader(demo=True)) as read:
        read()
        assert read.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, read.pid) == max(mine, NICENESS)


def test_the_process_that_reads_for_a_start_does_not() -> None:
    with closing(Reader(demo=True)) as read:
        read.begin()
        assert read.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, read.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        read()


class Looks:
    """The supervisor's facts, for the exposition; counts the scrapes, and notes who renders them."""

    def __init__(self) -> None:
        self.count = 0
        self.renderers: list[int] = []

    def facts(self) -> list[dict[str, Any]]:
        self.count += 1
        assert threading.get_ident() == threading.main_thread().ident
        looks = self

        class Facts(list[dict[str, Any]]):
            def __iter__(self) -> Any:
                looks.renderers.append(threading.get_ident())
                return super().__iter__()

        return Facts()


async def test_metrics_are_rendered_off_the_loop() -> None:
    looks = Looks()
    scrapes = Scrapes(Exposition(native.Segment(1), looks.facts), asyncio.ensure_future)
    text = await scrapes.text()
    assert b"budgateway_connections" in text
    assert looks.renderers
    assert threading.main_thread().ident not in looks.renderers


async def test_scrapes_at_the_same_time_cost_two_and_see_what_was_counted_before() -> None:
    looks = Looks()
    segment = native.Segment(1)
    scrapes = Scrapes(Exposition(segment, looks.facts), asyncio.ensure_future)
    first = asyncio.create_task(scrapes.text())
    while not looks.count:
        await asyncio.sleep(0)
    segment.add(0, native.GAUGE_CONNECTIONS, 5)
    others = [asyncio.create_task(scrapes.text()) for _ in range(50)]
    others[0].cancel()
    texts = await asyncio.gather(first, *others[1:])
    assert looks.count == 2
    assert all(b'budgateway_connections{worker="0"} 5.0' in text for text in texts[1:])
