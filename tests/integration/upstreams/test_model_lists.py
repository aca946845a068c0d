"""GET /v1/models before engines that do not answer: asked all at once, within bounds, and what was known goes on to be said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from integration.inside import upstream_of
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream

from budgateway.admin import models as module
from budgateway.admin.models import ModelCatalogue
from budgateway.app.wiring import targets_of
from budgateway.records import Provider
from budgateway.transport.client_cy import Target

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)


def listing(*names: str) -> Answer:
    return faults.raw(faults.json_bytes({"object": "list", "data": [{"id": name} for name in names]}))


@asynccontextmanager
async def catalogue(
    providers: dict[str, list[FaultyUpstream]], is_well: Callable[[Target], bool] = lambda _: True
) -> AsyncIterator[ModelCatalogue]:
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        return task

    found = []
    for name, upstreams in providers.items():
        provider = Provider(name=name, kind="openai", upstreams=tuple(upstream_of(one.url) for one in upstreams))
        found.append((provider, targets_of(provider, {})))
    yield ModelCatalogue(found, spawn, is_well)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def names(catalogue: ModelCatalogue) -> list[str]:
    return [model["id"] for model in await catalogue.models()]


async def test_silent_engines_are_asked_at_once_and_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.4)
    async with (
        FaultyUpstream(faults.silent()) as one,
        FaultyUpstream(faults.silent()) as two,
        FaultyUpstream(faults.silent()) as three,
        FaultyUpstream(listing("m")) as good,
        catalogue({"bad": [one, two, three], "good": [good]}) as found,
    ):
        assert await names(found) == ["m"]
        silent = (one, two, three)
        assert all(len(upstream.requests) == 1 for upstream in silent)
        for upstream in silent:
            await upstream.until(lambda up: up.open_connections == 0)
        # All were asked before the gateway gave up on any.
        assert max(up.requests[0].begun_ns for up in silent) < min(up.connections[0].peer_left_ns for up in silent)


async def test_upstreams_of_one_provider_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        FaultyUpstream(listing("a", "b")) as one,
        FaultyUpstream(faults.status(500)) as two,
        FaultyUpstream(listing("b", "c")) as three,
        catalogue({"p": [one, two, three]}) as found,
    ):
        assert await names(found) == ["a", "b", "c"]


async def test_who_is_known_to_be_ill_is_not_asked() -> None:
    async with (
        FaultyUpstream(faults.silent()) as bad,
        FaultyUpstream(listing("m")) as good,
        catalogue({"bad": [bad], "good": [good]}, lambda target: target.label != "bad") as found,
    ):
        assert await names(found) == ["m"]
        assert bad.requests == []


async def test_the_former_list_is_served_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.05)
    gate = asyncio.Event()
    script = (listing("old"), faults.held(gate, listing("new")), listing("new"))
    async with FaultyUpstream(*script) as upstream, catalogue({"p": [upstream]}) as found:
        assert await names(found) == ["old"]
        for _ in range(3):
            assert await names(found) == ["old"]
        assert len(upstream.requests) == 2  # one asking at a time
        gate.set()
        async with asyncio.timeout(5):
            while await names(found) == ["old"]:
                pass
        assert await names(found) == ["new"]


async def test_a_provider_that_stops_answering_keeps_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    async with (
        FaultyUpstream(listing("mine"), faults.status(500)) as ill,
        FaultyUpstream(listing("a"), listing("b")) as well,
        catalogue({"ill": [ill], "well": [well]}) as found,
    ):
        assert await names(found) == ["mine", "a"]
        assert await names(found) == ["mine", "b"]


@pytest.mark.parametrize("body", [b"[" * 100_000, json.dumps({"data": 7}).encode(), b"\xff", b""])
async def test_a_list_that_is_none_is_no_others_trouble(body: bytes) -> None:
    wire = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with (
        FaultyUpstream(faults.raw(wire)) as odd,
        FaultyUpstream(listing("m")) as good,
        catalogue({"odd": [odd], "good": [good]}) as found,
    ):
        assert await names(found) == ["m"]
