"""WebSocket through the gateway with the npm package `ws`, as a client and as a server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from integration.inside import inside
from integration.websocket.test_websocket import echo, plain, sockets
from websockets.exceptions import ConnectionClosed

from budgateway.records import WebSocket

HERE = Path(__file__).parents[1] / "node"
NODE = shutil.which("node")
LOOPS = ("uvloop",)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.peers,
    pytest.mark.skipif(NODE is None, reason="no node on this machine"),
    pytest.mark.skipif(not (HERE / "node_modules" / "ws").is_dir(), reason="no ws package for node: run `make peers`"),
]


@asynccontextmanager
async def node(script: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A script of the folder, stopped at the end."""
    process = await asyncio.create_subprocess_exec(
        str(NODE), str(HERE / script), env={"PATH": os.environ["PATH"], **env}, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("deflate", ["0", "1"])
async def test_a_client_of_ws(tmp_path: Path, deflate: str) -> None:
    async with sockets(echo, tmp_path, serve_with={"subprotocols": ["chat"]}) as (gateway, url):
        async with node("socket.mjs", SOCKET_URL=url, DEFLATE=deflate) as client:
            assert client.stdout is not None
            async with asyncio.timeout(60):
                told = json.loads(await client.stdout.read())
        assert told == {
            "protocol": "chat",
            "extensions": "permessage-deflate" if deflate == "1" else "",
            "text": "gr\u00fc\u00dfe",
            "whole": True,
            "pong": "there?",
            "closed": [4321, "enough"],
        }
        await gateway.at_rest()


async def test_a_server_of_ws(tmp_path: Path) -> None:
    async with node("echo.mjs") as server:
        assert server.stdout is not None
        async with asyncio.timeout(60):
            port = int(await server.stdout.readline())
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        async with inside(f"http://127.0.0.1:{port}", tmp_path, route=route) as gateway:
            async with plain(gateway.url.replace("http", "ws", 1) + "/any/path") as client:
                message = "x" * 3_000_000
                await client.send([message[:1_000_000], message[1_000_000:]])
                assert await client.recv() == message
                assert await (await client.ping()) >= 0
                await client.send("bye 3999")
                with pytest.raises(ConnectionClosed):
                    await client.recv()
            assert (client.close_code, client.close_reason) == (3999, "as you wish")
            await gateway.at_rest()
