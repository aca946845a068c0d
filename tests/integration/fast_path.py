"""A gateway whose fast path serves a client's requests, and an upstream that keeps them in flight."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.native import GAUGE_TICK, FastPath

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
    """A request that the fast path can serve."""
    return request_bytes("a", "POST", path, json.dumps({"model": model, "n": number}).encode(), JSON)


@asynccontextmanager
async def fast_gateway(
    upstream: FaultyUpstream, log: Path, /, *, also: Sequence[str] = (), **options: Any
) -> AsyncIterator[tuple[Inside, FastPath]]:
    """A gateway before the upstream, and more at these URLs, and its fast path."""
    async with inside([upstream.url, *also], log, path="/v1/*", **options) as gateway:
        assert gateway.plane.fastpath is not None
        yield gateway, gateway.plane.fastpath.native


async def armed(client: Downstream, native: FastPath, request: bytes = ask(0)) -> None:
    """Send requests until the fast path serves the client's."""
    for _ in range(50):
        before = native.served()
        await client.send(request)
        assert (await client.answer()).status == 200
        if native.served() > before:
            return
    raise AssertionError("the fast path never served a request")


async def away(
    client: Downstream,
    native: FastPath,
    upstream: FaultyUpstream,
    answers: Numbered,
    first: int = 1,
    request: Callable[[int], bytes] = ask,
) -> int:
    """Put a request of the client's in flight on the fast path until its answer is let go; return its number."""
    for number in range(first, first + 20):
        await armed(client, native, request(0))
        await client.send(request(number))
        await upstream.until(lambda up, number=number: json.loads(up.requests[-1].body)["n"] == number)  # type: ignore[misc]
        if len(native):
            return number
        answers.let_go(number)
        assert (await client.answer()).json() == {"n": number}
    raise AssertionError("no request ever stayed on the fast path")


async def swept(gateway: Inside) -> None:
    """Wait for a sweep."""
    before = gateway.gauge(GAUGE_TICK)
    await gateway.until(lambda: gateway.gauge(GAUGE_TICK) != before, "a sweep")
