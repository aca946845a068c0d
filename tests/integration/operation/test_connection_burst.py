"""`max_connections` holds for all workers together, also when everybody comes at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from downstream import Downstream, request_bytes
from integration.gateways import gateway_async
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LOOPS = ("uvloop",)

MOST = 20


async def test_no_more_come_in_at_once_than_may() -> None:
    settings = {"workers": 2, "max_connections": MOST}
    async with (
        FaultyUpstream(faults.chat("well")) as upstream,
        gateway_async(upstream.url, settings=settings) as server,
        AsyncExitStack() as stack,
    ):
        clients = [Downstream(server.url) for _ in range(3 * MOST)]
        await asyncio.gather(*(stack.enter_async_context(client) for client in clients))
        statuses = []
        for client in clients:
            if not client.has_answer:
                await client.send(request_bytes(client.host, "GET", "/livez"))
            statuses.append((await client.answer()).status)
        assert set(statuses) == {200, 503}
        # Whoever asked whether the gateway is ready may hold a place, and two that meet at the last one both find it taken.
        assert MOST // 2 < statuses.count(200) <= MOST
