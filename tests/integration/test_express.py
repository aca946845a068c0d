"""The express carries what is common, and nothing can be told from what went the ordinary way; no answer changes places."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from tokens import SECRET, own
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.native import Express
from budgateway.records import Auth, Fallback, Grant, Retries, Secret

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]


class Numbered:
    """An upstream's answers: each tells the request's number, once that is let go. Those below 1 need not wait."""

    def __init__(self) -> None:
        self._gates: dict[int, asyncio.Event] = {}

    def let_go(self, *numbers: int) -> None:
        for number in numbers:
            self._gates.setdefault(number, asyncio.Event()).set()

    async def __call__(self, peer: Peer, request: Received) -> None:
        number = json.loads(request.body)["n"]
        if number > 0:
            await self._gates.setdefault(number, asyncio.Event()).wait()
        await peer.send(faults.json_bytes({"n": number}))


def ask(number: int, model: str = "demo", path: str = CHAT) -> bytes:
    """A request that can ride."""
    return request_bytes("a", "POST", path, json.dumps({"model": model, "n": number}).encode(), JSON)


@asynccontextmanager
async def express(upstream: FaultyUpstream, log: Path, **options: Any) -> AsyncIterator[tuple[Inside, Express]]:
    """A gateway before the upstream, and what carries exchanges in it."""
    async with inside(upstream.url, log, path="/v1/*", **options) as gateway:
        assert gateway.plane.express is not None
        yield gateway, gateway.plane.express.native


async def riding(client: Downstream, native: Express, request: bytes = ask(0)) -> None:
    """Ask until the client's requests ride."""
    for _ in range(50):
        before = native.carried()
        await client.send(request)
        assert (await client.answer()).status == 200
        if native.carried() > before:
            return
    raise AssertionError("no request ever rode")


async def turned(gateway: Inside) -> None:
    """Wait until the gateway has read what was sent to it before, and could have had it answered."""
    async with Downstream(gateway.url) as other:
        for _ in range(10):
            await other.send(ask(0))
            assert (await other.answer()).status == 200


# ---------------------------------------------------------------- the order of answers


async def test_a_request_that_is_handed_over_is_answered_before_the_next(tmp_path: Path) -> None:
    """There is no connection for the first; meanwhile the second comes."""
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, express(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await riding(client, native)
            await other.send(ask(9))
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 9)
            await client.send(ask(1))
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 1)
            await client.send(ask(2))
            answers.let_go(2)
            await turned(gateway)
            answers.let_go(1, 9)
            assert [(await client.answer()).json()["n"] for _ in range(2)] == [1, 2]
            assert (await other.answer()).json() == {"n": 9}
        await gateway.at_rest()


async def test_a_client_is_not_offered_while_its_requests_wait(tmp_path: Path) -> None:
    """Two stand behind one that teaches a kind: the first is refused at once, and a third comes when the second is away."""
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, express(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await riding(other, native)
            await client.send(ask(1))
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 1)
            await client.send(request_bytes("a", "GET", "/nowhere") + ask(2))
            await turned(gateway)
            answers.let_go(1)
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 2)
            await client.send(ask(3))
            answers.let_go(3)
            await turned(gateway)
            answers.let_go(2)
            seen = [await client.answer() for _ in range(4)]
            assert [answer.json().get("n", answer.status) for answer in seen] == [1, 404, 2, 3]
        await gateway.at_rest()


# ---------------------------------------------------------------- who may


async def test_what_a_role_may_put_it_may_not_post(tmp_path: Path) -> None:
    auth = {"jwt_secret": Secret(SECRET), "auth": Auth(grants=(Grant("putter", methods=("PUT",)), Grant("all")))}
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        express(upstream, tmp_path, route={"auth_required": True}, **auth) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client:
            who = ("Authorization", f"Bearer {own(roles=['putter'], exp=2**32)}")
            for _ in range(4):
                assert (await client.ask("PUT", CHAT, b'{"model":"demo"}', [*JSON, who])).status == 200
                assert (await client.ask("POST", CHAT, b'{"model":"demo"}', [*JSON, who])).status == 403
            assert not native.carried()
            may = ("Authorization", f"Bearer {own(roles=['all'], exp=2**32)}")
            await riding(client, native, request_bytes("a", "POST", CHAT, b'{"model":"demo"}', [*JSON, may]))


# ---------------------------------------------------------------- what is learnt


async def test_what_a_fallback_did_is_no_precedent(tmp_path: Path) -> None:
    """Its provider is told another name."""
    retries = Retries(fallbacks=(Fallback("/spare"),))
    async with FaultyUpstream(faults.chat()) as upstream, FaultyUpstream(faults.chat()) as spare:
        async with express(
            upstream, tmp_path, beside={"/spare": spare.url}, route={"retries": retries},
            provider={"aliases": (("demo", "real"),)},
        ) as (gateway, _):  # fmt: skip
            selector = gateway.plane.snapshot.routes.rooms[0].legs[0].balancer.selector
            async with Downstream(gateway.url) as client:
                for drained in (True, False):
                    selector.drain(0, drained)
                    for _ in range(4):
                        await client.send(ask(0))
                        assert (await client.answer()).status == 200
            assert [json.loads(request.body)["model"] for request in spare.requests] == ["demo"] * 4
            assert [json.loads(request.body)["model"] for request in upstream.requests] == ["real"] * 4


async def test_upstreams_that_lack_a_model_are_left_out_however_many_were_named(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one, FaultyUpstream(faults.chat()) as two:
        async with inside([one.url, two.url], tmp_path, path="/v1/*") as gateway, Downstream(gateway.url) as client:
            native = gateway.plane.express.native  # type: ignore[union-attr]
            segment = gateway.plane._segment
            for upstream, model in ((one, "a"), (two, "b")):
                segment.set_models(segment.upstream(upstream.url), [model])
            gateway.plane._follow_models()
            for number in range(1024):
                await client.send(ask(0, f"unlisted-{number}"))
                assert (await client.answer()).status == 200
            asked = len(one.requests)
            for _ in range(5):
                await riding(client, native, ask(0, "b"))
            assert len(one.requests) == asked


async def test_a_long_name_is_not_remembered(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, express(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            for _ in range(4):
                await client.send(ask(0, "m" * 257))
                assert (await client.answer()).status == 200
            assert not native.carried()
            await riding(client, native, ask(0, "m" * 256))
