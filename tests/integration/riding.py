"""Clients whose requests ride with the express, and an upstream that keeps them on their way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.native import Express

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
async def express(upstream: FaultyUpstream, log: Path, /, **options: Any) -> AsyncIterator[tuple[Inside, Express]]:
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


async def away(
    client: Downstream,
    native: Express,
    upstream: FaultyUpstream,
    answers: Numbered,
    first: int = 1,
    request: Callable[[int], bytes] = ask,
) -> int:
    """Have the client's request be on its way, with the express, for as long as nobody lets it go: its number."""
    for number in range(first, first + 20):
        await riding(client, native, request(0))
        await client.send(request(number))
        await upstream.until(lambda up, number=number: json.loads(up.requests[-1].body)["n"] == number)  # type: ignore[misc]
        if len(native):
            return number
        answers.let_go(number)
        assert (await client.answer()).json() == {"n": number}
    raise AssertionError("no request ever stayed with the express")
