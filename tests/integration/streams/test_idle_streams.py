"""Memory of an open stream: many idle ones through one gateway, in bytes of its processes (RELIABILITY R14)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from downstream import request_bytes
from integration.gateways import gateway_async
from integration.processes import Server
from integration.sizes import long
from upstreams import faults
from upstreams.wire import chunk, head

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

EVENT = faults.chat_events("hello")[1]
BATCH = 100  # connections opened at once


class Stalled(asyncio.Protocol):
    """An upstream that sends a head and one event to whoever asks, and then nothing."""

    transports: set[asyncio.BaseTransport]

    def __init__(self, transports: set[asyncio.BaseTransport]) -> None:
        self.transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.transports.add(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(head(200, [faults.EVENT_STREAM, faults.CHUNKED]) + chunk(EVENT))  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self.transports.discard(self._transport)


class Idle(asyncio.Protocol):
    """A client that asks for a stream and has seen its first event."""

    def __init__(self, ask: bytes) -> None:
        self._ask = ask
        self._read = bytearray()
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self._ask)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._read += data
        if EVENT in self._read and not self.begun.done():
            assert self._read.startswith(b"HTTP/1.1 200")
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.begun.done():
            self.begun.set_exception(ConnectionError("closed before its first event"))


@pytest.mark.parametrize(
    ("count", "limit_mib"),
    [
        (500, 90.0),
        # The open files of this one process, which is both ends, allow no 10,000.
        long("IDLE_STREAMS", 9_800, 150.0 * 9_800 / 10_000),
    ],
)
@pytest.mark.parametrize("body_bytes", [300, 20_000])
async def test_idle_streams_cost_little(count: int, limit_mib: float, body_bytes: int) -> None:
    transports: set[asyncio.BaseTransport] = set()
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(lambda: Stalled(transports), "127.0.0.1", 0, backlog=4096)
    port = upstream.sockets[0].getsockname()[1]
    settings = {"workers": 2, "max_connections": 20_000}
    body = json.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "x" * body_bytes}]})
    ask = request_bytes("a", "POST", "/v1/chat/completions", body.encode(), [("Content-Type", "application/json")])
    clients: list[Idle] = []
    first = 0.0
    options: dict[str, Any] = {"route": {"chunk_timeout": 600}, "provider": {"health_check_interval": 3600.0}}
    async with upstream, gateway_async(f"http://127.0.0.1:{port}", settings=settings, **options) as server:
        empty = await settled(server)
        for pid in tree(server.process.pid):
            assert "_pydantic_core" not in Path(f"/proc/{pid}/maps").read_text(), "who read the configuration stayed"
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        while len(clients) < count:
            opened = await asyncio.gather(
                *(loop.create_connection(lambda: Idle(ask), *address) for _ in range(min(BATCH, count - len(clients))))
            )
            clients += [client for _, client in opened]
            await asyncio.gather(*(client.begun for client in clients[-BATCH:]))
            if len(clients) == BATCH:
                # The first ones also bear what workers shared until they had something to do.
                first = memory_mib(server)[1]
        rss, pss = memory_mib(server)
        each = (pss - first) * 1024 / (count - BATCH)
        print(
            f"{count} streams, {body_bytes} B asked: RSS {rss:.1f} MiB (empty {empty[0]:.1f}), "
            f"PSS {pss:.1f} MiB (empty {empty[1]:.1f}), {each:.1f} KiB a stream"
        )
        for client in clients:
            client.transport.abort()  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            while transports:
                await asyncio.sleep(0.05)
    assert pss <= limit_mib
    assert each <= 12.0


async def settled(server: Server) -> tuple[float, float]:
    """Return the memory once it no longer changes."""
    before = 0.0
    async with asyncio.timeout(30):
        while memory_mib(server)[1] > before + 0.1:
            before = memory_mib(server)[1]
            await asyncio.sleep(0.5)
    return memory_mib(server)


def memory_mib(server: Server) -> tuple[float, float]:
    """Resident memory of all the gateway's processes: the sum, and with shared pages counted once."""
    rss = pss = 0
    for pid in tree(server.process.pid):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        rss += int(fields["Rss"].split()[0])
        pss += int(fields["Pss"].split()[0])
    return rss / 1024, pss / 1024


def tree(pid: int) -> list[int]:
    """A process and all that come from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in tree(int(child)))]
