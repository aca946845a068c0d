"""Memory of the gateway: slow readers cost little each, and requests leave nothing behind (RELIABILITY R13, R15)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.operated import CHAT, JSON, Operated, operated
from integration.sizes import long
from upstreams import faults
from upstreams.faulty import FaultyUpstream

ROOT = Path(__file__).parents[3]
FIRST = 10
RIG = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "budgateway-load"

pytestmark = pytest.mark.integration


# In the kernel's buffers lie some 8 MiB for each: a thousand would be too many for a test.
@pytest.mark.parametrize(("count", "most_kib"), [(30, 128.0), long("SLOW_READERS", 150, 64.0)])
async def test_slow_readers_cost_little(count: int, most_kib: float) -> None:
    """Each reads the beginning of an endless stream and then nothing: the gateway stops reading its upstream. (The first ones
    are left out: they cost what workers, forks of one process, shared until they had something to do.)"""
    ask = request_bytes("a", "POST", CHAT, b'{"model":"demo","stream":true,"messages":[]}', JSON)
    async with (
        FaultyUpstream(faults.endless(b'data: {"x": "' + b"x" * 4000 + b'"}\n\n')) as upstream,
        operated([upstream.url], settings={"max_connections": 20_000}) as gateway,
        AsyncExitStack() as stack,
    ):
        before = 0
        for number in range(FIRST + count):
            if number == FIRST:
                before = await held(gateway)
            client = await stack.enter_async_context(Downstream(gateway.url))
            await client.send(ask)
            await client.until_body()
            client.read_no_more()
        sent, still = -1, 0
        async with asyncio.timeout(120):
            while still < 10:
                still = still + 1 if upstream.sent_bytes == sent else 0
                sent = upstream.sent_bytes
                await asyncio.sleep(0.05)
        each = (await held(gateway) - before) / count / 1024
        on_their_way = sent / (FIRST + count) / 1024
        print(f"{count} slow readers: {each:.1f} KiB each, {on_their_way:.0f} KiB each on their way")
        assert each <= most_kib


async def held(gateway: Operated) -> int:
    """Bytes that the workers hold, shared pages counted once."""
    return sum(proportional(worker["pid"]) for worker in (await gateway.stats())["workers"])


def proportional(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


@pytest.mark.skipif(not RIG.exists(), reason="budgateway-load is not built: make rig")
@pytest.mark.parametrize("count", [6_000, long("REQUESTS", 1_000_000, timeout_s=1800)])
async def test_memory_is_flat_over_many_mixed_requests(count: int) -> None:
    """Small and large prompts, streams, and what goes wrong, in ten rounds: after the second one nothing grows."""
    async with (
        null_upstream() as url,
        operated([url], settings={"max_connections": 20_000}) as gateway,
    ):
        found: list[list[int]] = []
        served = 0
        for _ in range(10):
            target = gateway.url + CHAT
            served += await load(target, "--requests", str(count * 6 // 100), "--connections", "32")
            served += await load(
                target, "--requests", str(count * 2 // 100), "--connections", "16", "--body-bytes", "20000"
            )
            served += await load(
                target, "--requests", str(count * 2 // 100), "--connections", "32", "--streams", "32", "--events", "5"
            )
            await asyncio.gather(*(mischief(gateway.url, number) for number in range(max(20, count // 10_000))))
            await gateway.until(lambda facts: facts["in_flight"] == 0)
            found.append([worker["rss_bytes"] for worker in (await gateway.stats())["workers"]])
        print(f"{served} requests; MiB by worker after each tenth: {[[size >> 20 for size in row] for row in found]}")
        assert served == count // 100 * 100
        await gateway.until(lambda facts: facts["connections"] == facts["upstreams"][0]["in_flight"] == 0)
        for early, late in zip(found[1], found[-1], strict=True):
            assert late - early < 6 << 20, "bytes a worker"


async def mischief(url: str, number: int) -> None:
    """A request that ends otherwise: nothing there, not JSON, a client that leaves, a stream that is left."""
    async with Downstream(url) as client:
        if number % 4 == 0:
            assert (await client.ask("GET", "/nowhere")).status == 404
        elif number % 4 == 1:
            assert (await client.ask("POST", CHAT, b'{"model":', JSON)).status == 400
        elif number % 4 == 2:
            await client.send(request_bytes("a", "POST", CHAT, b'{"model":"demo","messages":[]}', JSON))
        else:
            body = json.dumps({"model": "demo", "stream": True, "max_tokens": 500, "messages": []}).encode()
            await client.send(request_bytes("a", "POST", CHAT, body, JSON))
            await client.until_body()


@asynccontextmanager
async def null_upstream() -> AsyncIterator[str]:
    """The rig's model server."""
    process = await asyncio.create_subprocess_exec(
        RIG, "upstream", "--interval-us", "500", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        yield line.decode().removeprefix("listening on ").strip()
    finally:
        process.kill()
        await process.communicate()


async def load(url: str, *options: str) -> int:
    """A run of the rig's generator: how many requests were answered, all of them right."""
    process = await asyncio.create_subprocess_exec(RIG, "run", *options, url, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    report: dict[str, Any] = json.loads(printed)
    assert (report["errors"], report["non_2xx"]) == (0, 0), report
    completed: int = report["completed"]
    return completed
