"""W1: a close code reaches the other end within 100 ms, whichever end it comes from."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest
from integration.inside import inside
from integration.sizes import long
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from budgateway.records import WebSocket

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)
MOST_S = 0.1


@pytest.mark.parametrize("count", [20, long("CLOSES", 500)])
@pytest.mark.parametrize("closing", ["client", "upstream"])
async def test_close_codes_are_relayed_at_once(tmp_path: Path, closing: str, count: int) -> None:
    heard: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    began: dict[int, float] = {}

    async def close(end: Connection, code: int) -> None:
        began[code] = time.perf_counter()
        await end.close(code)

    async def listen(end: Connection) -> None:
        try:
            await end.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            heard.put_nowait((closed.rcvd.code, time.perf_counter()))

    async def upstream(peer: ServerConnection) -> None:
        code = int(await peer.recv())
        await (close(peer, code) if closing == "upstream" else listen(peer))

    waits = []
    async with serve(upstream, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with inside(url, tmp_path, route={"websocket": WebSocket(), "methods": ("GET",)}) as gateway:
            for code in range(4000, 4000 + count):
                async with connect(gateway.url.replace("http", "ws", 1) + "/v1/realtime") as client:
                    await client.send(str(code))
                    await (close(client, code) if closing == "client" else listen(client))
                    async with asyncio.timeout(10):
                        found, at_s = await heard.get()
                assert found == code
                waits.append(at_s - began[code])
            await gateway.at_rest()
    p99_s = statistics.quantiles(waits, n=100)[98]
    print(f"{count} closed by {closing}: median {statistics.median(waits) * 1000:.2f} ms, p99 {p99_s * 1000:.2f} ms")
    # Of twenty the p99 is the slowest, and other work on the machine may be to blame for that.
    assert (p99_s if count >= 100 else statistics.median(waits)) <= MOST_S
