"""However many paths, models and users strangers think of: series and memory stay bounded, and who is known is served (S12)."""

from __future__ import annotations

import asyncio
import json

import pytest
from downstream import Downstream
from integration.operated import CHAT, JSON, Operated, operated
from integration.sizes import long
from tokens import own
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CLIENTS = 8
MOST_LINES = 1000
# Past the first quarter: what is remembered of strangers (tokens, subjects of limits, models) is full by then.
MOST_GROWTH_BYTES = 4 << 20
LIMITS = """
[auth]
jwt_secret = "env:JWT_SECRET"

[[rate_limiting.rules]]
by = "user"
requests_per_minute = 600_000
tokens_per_minute = 600_000_000

[[rate_limiting.rules]]
by = "model"
requests_per_minute = 6_000_000
"""


async def pour(gateway: Operated, first: int, count: int) -> None:
    """So many requests, no two of which name the same path, model and user."""
    left = iter(range(first, first + count))

    async def client() -> None:
        async with Downstream(gateway.url) as down:
            for number in left:
                told = [*JSON, ("authorization", f"Bearer {own(sub=f'user-{number}')}")]
                if number % 3 == 0:
                    answer = await down.ask("GET", f"/junk/{number}?model=m-{number}", headers=told)
                    assert answer.status == 404
                else:
                    body = json.dumps({"model": f"model-{number}", "messages": []}).encode()
                    answer = await down.ask("POST", f"/v1/chat/{number}" if number % 3 == 1 else CHAT, body, told)
                    assert answer.status == 200

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())


@pytest.mark.parametrize("count", [6_000, long("JUNK", 100_000)])
async def test_strangers_fill_neither_series_nor_memory(count: int) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        operated([upstream.url], extra=LIMITS, workers=1, route={"auth_required": True}) as gateway,
    ):
        lines, held = [], []
        for part in range(4):
            await pour(gateway, part * count // 4, count // 4)
            lines.append((await gateway.metrics()).count("\n"))
            held.append((await gateway.stats())["workers"][0]["rss_bytes"])
        print(f"{count} strangers: {lines} lines of metrics, {[size >> 20 for size in held]} MiB")
        assert max(lines) < MOST_LINES
        assert held[-1] - held[0] < MOST_GROWTH_BYTES
        # Strangers above what is told apart are one, and nothing they did is left out.
        _, usage = await gateway.call("GET", "/admin/usage?by=route")
        requests = {row["route"]: row["requests"] for row in usage["usage"]}
        nowhere = len(range(0, count, 3))
        assert (requests["/v1/*"], requests["other"]) == (count - nowhere, nowhere)
