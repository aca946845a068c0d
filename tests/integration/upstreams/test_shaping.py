"""Several providers behind one route: shares, canary, pins, mirror, maintenance, and what each does when an upstream is out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream
from integration.inside import Inside, upstream_of
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.process.embedded import Gateway
from budgateway.records import Canary, Maintenance, Mirror, Provider, Route, Settings

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]


@asynccontextmanager
async def shaped(
    tmp_path: Path,
    upstreams: dict[str, list[FaultyUpstream]],
    providers: dict[str, dict[str, Any]] | None = None,
    **route: Any,
) -> AsyncIterator[Inside]:
    """A gateway whose one route is shaped; `upstreams` by provider, of which the first is the route's own."""
    records = tuple(
        Provider(
            name=name,
            kind="openai",
            **({"upstreams": tuple(upstream_of(one.url) for one in ups)} | (providers or {}).get(name, {})),
        )
        for name, ups in upstreams.items()
    )
    only = Route(name="r", path="/*", provider=records[0].name, auth_required=False, replay_inference=True, **route)
    log = tmp_path / "access.log"
    log.touch()
    settings = Settings(
        host="127.0.0.1", port=0, metrics_port=0, providers=records, routes=(only,), access_log=str(log), drain_s=1.0
    )
    async with Gateway(settings) as gateway:
        yield Inside(gateway, log)


async def ask(client: Downstream, number: int = 0, *headers: tuple[str, str], **members: object) -> Answer:
    body = json.dumps({"model": "m", "n": number, **members}).encode()
    return await client.ask("POST", CHAT, body, [*JSON, *headers])


def name_of(answer: Answer) -> str:
    """Return the provider that answered."""
    return (answer.header("x-budgateway-upstream") or "?").partition("/")[0]


async def test_a_split_follows_its_weights(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one, FaultyUpstream(faults.chat()) as two:
        split = (("a", 9), ("b", 1))
        async with (
            shaped(tmp_path, {"a": [one], "b": [two]}, split=split) as gateway,
            Downstream(gateway.url) as client,
        ):
            answers = Counter([name_of(await ask(client)) for _ in range(100)])
            assert abs(answers["b"] - 10) <= 2, answers
            assert sum(answers.values()) == 100
            await gateway.at_rest()
            assert Counter(line["provider"] for line in await gateway.lines(100)) == answers


async def test_a_leg_whose_upstreams_are_drained_is_passed_over(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one, FaultyUpstream(faults.chat()) as two:
        split = (("a", 1), ("b", 1))
        async with (
            shaped(tmp_path, {"a": [one], "b": [two]}, split=split) as gateway,
            Downstream(gateway.url) as client,
        ):
            room = gateway.plane.snapshot.routes.compiled_routes[0]
            room.destinations[0].balancer.selector.drain(0, True)
            assert {name_of(await ask(client)) for _ in range(10)} == {"b"}
            room.destinations[0].balancer.selector.drain(0, False)
            assert {name_of(await ask(client)) for _ in range(10)} == {"a", "b"}
            for destination in room.destinations:
                destination.balancer.selector.drain(0, True)
            answer = await ask(client)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "no_upstream")


async def test_who_finds_its_leg_full_goes_to_another_one(tmp_path: Path) -> None:
    """Unless it is pinned there; and where all are full, it waits for the one whose turn it was. A canary is no overflow."""
    gate = asyncio.Event()
    async with FaultyUpstream(faults.held(gate, faults.chat())) as one, FaultyUpstream(faults.chat()) as two:
        bound = {"a": {"upstreams": (replace(upstream_of(one.url), max_in_flight=1),)}}
        split = (("a", 1000), ("b", 1))
        async with (
            shaped(tmp_path, {"a": [one], "b": [two]}, bound, split=split, pin_by="header:x-pin") as gateway,
            Downstream(gateway.url) as holder,
            Downstream(gateway.url) as pinned,
            Downstream(gateway.url) as client,
        ):
            held = asyncio.create_task(ask(holder))
            await one.until(lambda upstream: len(upstream.requests) == 1)
            assert {name_of(await ask(client)) for _ in range(5)} == {"b"}
            waits = asyncio.create_task(ask(pinned, 0, ("X-Pin", "k")))
            await gateway.until(lambda: gateway.in_flight == 2, "the pinned one's wait")
            gate.set()
            assert {name_of(answer) for answer in await asyncio.gather(held, waits)} == {"a"}
        gate.clear()
        async with (
            shaped(tmp_path, {"a": [one], "b": [two]}, bound, canary=Canary("b", 0.001, "", "")) as gateway,
            Downstream(gateway.url) as holder,
            Downstream(gateway.url) as client,
        ):
            held = asyncio.create_task(ask(holder))
            await one.until(lambda upstream: len(upstream.requests) == 3)
            waits = asyncio.create_task(ask(client))
            await gateway.until(lambda: gateway.in_flight == 2, "the wait")
            gate.set()
            assert {name_of(answer) for answer in await asyncio.gather(held, waits)} == {"a"}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 1.0])
async def test_a_canary_has_its_share_and_its_header(tmp_path: Path, share: float) -> None:
    async with FaultyUpstream(faults.chat()) as one, FaultyUpstream(faults.chat()) as two:
        canary = Canary("b", share, "x-canary", "on")
        async with (
            shaped(tmp_path, {"a": [one], "b": [two]}, canary=canary) as gateway,
            Downstream(gateway.url) as client,
        ):
            assert name_of(await ask(client, 0, ("X-Canary", "on"))) == "b"
            if share < 1:
                assert "a" in {name_of(await ask(client, 0, ("X-Canary", "off"))) for _ in range(8)}
            answers = Counter([name_of(await ask(client)) for _ in range(100)])
            assert abs(answers["b"] - 100 * share) <= 2, answers


@pytest.mark.parametrize("pin_by", ["header:x-session", "user", "key"])
async def test_a_pin_keeps_requests_at_one_upstream(tmp_path: Path, pin_by: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ups = [await stack.enter_async_context(FaultyUpstream(faults.chat())) for _ in range(4)]
        gateway = await stack.enter_async_context(
            shaped(tmp_path, {"a": ups[:2], "b": ups[2:]}, split=(("a", 1), ("b", 1)), pin_by=pin_by)
        )
        client = await stack.enter_async_context(Downstream(gateway.url))

        async def where(session: str) -> str:
            answer = await ask(client, 0, ("X-Session", session), user=session)
            return answer.header("x-budgateway-upstream") or "?"

        sessions = [f"session-{number}" for number in range(24)]
        first = {session: await where(session) for session in sessions}
        for _ in range(2):
            assert {session: await where(session) for session in sessions} == first
        if pin_by == "key":
            assert len(set(first.values())) == 1  # one client
            return
        assert set(first.values()) == {"a/0", "a/1", "b/0", "b/1"}
        # Only what was at the upstream that is out moves, and it comes back.
        gateway.plane.snapshot.routes.compiled_routes[0].destinations[0].balancer.selector.drain(0, True)
        moved = {session: await where(session) for session in sessions}
        assert all(there != "a/0" for there in moved.values())
        assert all(moved[session] == there for session, there in first.items() if there != "a/0")
        gateway.plane.snapshot.routes.compiled_routes[0].destinations[0].balancer.selector.drain(0, False)
        assert {session: await where(session) for session in sessions} == first


async def test_without_what_it_is_pinned_by_a_request_goes_where_it_may(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one, FaultyUpstream(faults.chat()) as two:
        async with shaped(tmp_path, {"a": [one, two]}, pin_by="header:x-session") as gateway:
            async with Downstream(gateway.url) as client:
                found = {(await ask(client)).header("x-budgateway-upstream") for _ in range(4)}
                assert found == {"a/0", "a/1"}


async def test_a_mirror_gets_copies_and_changes_nothing(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat("real")) as one, FaultyUpstream(faults.status(500)) as two:
        providers = {"b": {"aliases": (("m", "m-next"),)}}
        async with shaped(tmp_path, {"a": [one], "b": [two]}, providers, mirror=Mirror("b")) as gateway:
            async with Downstream(gateway.url) as client:
                for number in range(5):
                    answer = await ask(client, number)
                    assert answer.status == 200
                    assert answer.json()["choices"][0]["message"]["content"] == "real"
                    assert name_of(answer) == "a"
                await two.until(lambda up: len(up.requests) == 5)
                await gateway.at_rest()
            assert sorted(json.loads(request.body)["n"] for request in two.requests) == [0, 1, 2, 3, 4]
            assert {json.loads(request.body)["model"] for request in two.requests} == {"m-next"}
            assert all(dict(request.headers)["x-budgateway-mirror"] == "1" for request in two.requests)
            assert {dict(request.headers).get("x-budgateway-mirror") for request in one.requests} == {None}
            copies = gateway.plane.copies
            await gateway.until(lambda: copies.failed == 5)
            assert (copies.answered, copies.skipped) == (0, 0)
            assert len(await gateway.lines(5)) == 5


async def test_a_mirror_that_hangs_is_bounded_and_let_go_of(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one, FaultyUpstream(faults.silent()) as two:
        mirror = Mirror("b", max_in_flight=3, timeout_s=0.5)
        async with shaped(tmp_path, {"a": [one], "b": [two]}, mirror=mirror) as gateway:
            async with Downstream(gateway.url) as client:
                for number in range(10):
                    assert (await ask(client, number)).status == 200
                copies = gateway.plane.copies
                assert copies.skipped == 7
                await gateway.until(lambda: copies.failed == 3)
                await gateway.at_rest()
                await two.until(lambda up: up.open_connections == 0)


async def test_a_mirror_that_is_down_is_not_heard_of(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one:
        async with FaultyUpstream(faults.chat()) as two:
            pass  # nobody listens there now
        async with shaped(tmp_path, {"a": [one], "b": [two]}, mirror=Mirror("b")) as gateway:
            async with Downstream(gateway.url) as client:
                assert {(await ask(client, number)).status for number in range(5)} == {200}
                await gateway.until(lambda: gateway.plane.copies.failed == 5)


@pytest.mark.parametrize("body", [b'{"model":"m","x":"' + b"x" * 2000 + b'"}', None])
async def test_what_is_too_large_or_streams_is_not_copied(tmp_path: Path, body: bytes | None) -> None:
    async with FaultyUpstream(faults.chat()) as one, FaultyUpstream(faults.chat()) as two:
        mirror = Mirror("b", max_body_bytes=1000)
        async with shaped(tmp_path, {"a": [one], "b": [two]}, mirror=mirror) as gateway:
            async with Downstream(gateway.url) as client:
                if body is not None:
                    assert (await client.ask("POST", CHAT, body, JSON)).status == 200
                else:
                    await client.send(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
                    await one.until(lambda up: bool(up.connections))
                    await client.send(b"cd")
                    await one.until(lambda up: len(up.requests) == 1)
                await gateway.until(lambda: gateway.plane.copies.skipped == 1)
                assert not two.requests


async def test_a_stream_is_copied_without_being_waited_for(tmp_path: Path) -> None:
    events = faults.chat_events("one", "two")
    async with FaultyUpstream(faults.stream(events)) as one, FaultyUpstream(faults.stream(events, pause_s=0.05)) as two:
        async with shaped(tmp_path, {"a": [one], "b": [two]}, mirror=Mirror("b", share=1.0)) as gateway:
            async with Downstream(gateway.url) as client:
                answer = await ask(client, stream=True, stream_options={"include_usage": True})
                assert bytes(answer.body) == b"".join(events)
                await gateway.until(lambda: gateway.plane.copies.answered == 1)
                await gateway.at_rest()


async def test_a_route_under_maintenance_says_so(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one:
        closed = Maintenance("back at noon", retry_after_s=120)
        async with shaped(tmp_path, {"a": [one]}, maintenance=closed) as gateway, Downstream(gateway.url) as client:
            answer = await ask(client)
            assert answer.status == 503
            assert answer.header("retry-after") == "121"
            assert answer.json()["error"]["code"] == "maintenance"
            assert answer.json()["error"]["message"] == "back at noon"
            assert (await client.ask("GET", "/livez")).status == 200
        assert not one.requests


async def test_a_reload_opens_it_again(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one:
        async with shaped(tmp_path, {"a": [one]}, maintenance=Maintenance("closed")) as gateway:
            async with Downstream(gateway.url) as client:
                assert (await ask(client)).status == 503
                settings = gateway.plane.snapshot.settings
                route = replace(settings.routes[0], maintenance=None)
                gateway.plane.commit(gateway.plane.prepare(replace(settings, routes=(route,))))
                assert (await ask(client)).status == 200
                await asyncio.sleep(0)
