"""A reload's work is done in steps whose size does not depend on the configuration's: the loop serves between them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from budgateway import native
from budgateway.admin.health import Health, probing
from budgateway.app.dataplane import DataPlane, taking_apart
from budgateway.config.difference import comparing
from budgateway.config.packing import packing, unpacking
from budgateway.records import Fallback, HealthCheck, Provider, Retries, Route, Settings, Upstream
from budgateway.system.slices import in_slices

T = TypeVar("T")
SMALL, LARGE = 20, 200


def upstream(number: int) -> Upstream:
    """One of a provider's two upstreams."""
    return Upstream(url=f"http://127.0.0.1:{number + 1}", tls=False, host="127.0.0.1", port=number + 1)


def settings_of(size: int) -> Settings:
    """Settings of so many providers, each with five routes of its own."""
    return Settings(
        host="127.0.0.1",
        port=0,
        access_log="off",
        providers=tuple(
            Provider(
                f"p{number}", "vllm", (upstream(2 * number), upstream(2 * number + 1)), models=(f"m{number}",),
                health_check=HealthCheck(),
            )
            for number in range(size)
        ),
        routes=tuple(
            Route(
                name=f"r{number}", path=f"/t{number}", provider=f"p{number % size}", auth_required=False, rate_limit=600,
                retries=Retries(fallbacks=(Fallback(f"p{(number + 1) % size}"),)),
            )
            for number in range(5 * size)
        ),
    )  # fmt: skip


def stepped(work: Generator[None, None, T]) -> tuple[T, list[int]]:
    """The work's result, and the number of calls in each of its steps: a duration that no other process changes."""
    calls = 0
    steps: list[int] = []

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += 1

    while True:
        calls = 0
        sys.setprofile(count)
        try:
            next(work)
        except StopIteration as end:
            return end.value, steps
        finally:
            sys.setprofile(None)
            steps.append(calls)


@asynccontextmanager
async def plane_of(settings: Settings) -> AsyncIterator[DataPlane]:
    """The data plane of a worker without clients."""
    plane = DataPlane(settings, native.Segment(1), 0, "/nowhere")
    try:
        yield plane
    finally:
        await plane.close()


async def steps_of_a_reload(size: int) -> dict[str, list[int]]:
    """The steps of everything that a reload does, in the supervisor and in a worker."""
    settings = settings_of(size)
    other = replace(settings, routes=tuple(replace(route, rate_limit=9) for route in settings.routes))
    steps: dict[str, list[int]] = {}
    async with plane_of(settings) as plane:
        _, steps["comparing"] = stepped(comparing(settings, other))
        packed, steps["packing"] = stepped(packing(other))
        arrived, steps["unpacking"] = stepped(unpacking(packed))
        successor, steps["preparing"] = stepped(plane.preparing(arrived))
        plane.commit(successor)
        (former,) = plane._former
        plane._former.clear()
        work = taking_apart(former)
        del former
        _, steps["taking apart"] = stepped(work)
        segment = native.Segment(1)
        _, steps["probing"] = stepped(probing(other, segment))
        _, steps["showing"] = stepped(Health(segment, settings).adopting(other))
    return steps


async def test_no_step_of_a_reload_grows_with_the_configuration() -> None:
    small, large = await steps_of_a_reload(SMALL), await steps_of_a_reload(LARGE)
    for what, steps in large.items():
        assert len(steps) > 0.7 * LARGE / SMALL * len(small[what]), what
        # What is left are passes over all routes, with a call or two for each: a microsecond.
        assert max(steps) <= max(1.2 * max(small[what]), 5 * 5 * LARGE), what
        assert max(steps) < 0.03 * sum(steps), what


async def test_the_loop_turns_while_a_configuration_is_prepared() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with plane_of(settings_of(SMALL)) as plane:
        turning = asyncio.create_task(turn())
        successor = await in_slices(plane.preparing(settings_of(SMALL)), slice_ns=1)
        turning.cancel()
        assert turns > 5 * SMALL
        assert plane.snapshot is not successor.snapshot
        plane.discard(successor)


@pytest.mark.parametrize("ended", [True, False])
async def test_preparing_changes_nothing_until_it_is_committed(ended: bool) -> None:
    async with plane_of(settings_of(SMALL)) as plane:
        snapshot, pools = plane.snapshot, dict(plane.pools)
        work = plane.preparing(settings_of(2 * SMALL))
        for _ in work if ended else range(100):
            if not ended:
                next(work)
        work.close()
        assert plane.snapshot is snapshot
        assert plane.relay.snapshot is snapshot
        assert plane.pools == pools
