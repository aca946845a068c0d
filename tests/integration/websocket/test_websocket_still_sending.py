"""A close code is heard by a peer that is still sending: closing over what it says would have the kernel reset it away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import pytest
from downstream import request_bytes
from integration.inside import inside
from integration.websocket.test_websocket import HANDSHAKE, echo, masked, raw, sockets, switching
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from budgateway.records import WebSocket

pytestmark = pytest.mark.integration
LOOPS = ("uvloop", "asyncio")


def send_all_then_read(url: str, pieces: list[bytes]) -> bytes:
    """A client with one thread: it reads only when it has sent all. What came behind the 101, until the end; blocks."""
    host, _, port = url.split("/")[2].partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(request_bytes(f"{host}:{port}", "GET", "/v1/realtime", b"", HANDSHAKE))
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(1)
        for piece in pieces:
            sock.sendall(piece)
        heard = b""
        while piece := sock.recv(1 << 16):
            heard += piece
        return heard


FRAME = b"\x82\xff" + struct.pack("!Q", 1 << 18) + b"\x00" * 4 + b"x" * (1 << 18)


async def test_who_says_too_much_hears_that_when_it_has_said_it(tmp_path: Path) -> None:
    async with sockets(echo, tmp_path, WebSocket(max_message_bytes=1 << 16)) as (gateway, url):
        heard = await asyncio.to_thread(send_all_then_read, url, [FRAME] * 64)
        assert heard[:1] + heard[2:4] == b"\x88" + struct.pack("!H", 1009)
        await gateway.at_rest()


async def test_an_upstreams_close_is_heard_behind_what_it_does_not_read(tmp_path: Path) -> None:
    """It closes with a reason, reads no more, and the client is still sending."""

    async def close(peer: Peer, request: Received) -> None:
        await peer.send(b"\x88\x06" + struct.pack("!H", 4001) + b"full")
        peer.read_no_more()
        await peer.gone()

    async with FaultyUpstream(switching(close)) as upstream:
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        async with inside(upstream.url, tmp_path, route=route) as gateway:
            pieces = [FRAME] * 64 + [masked(0x88, struct.pack("!H", 4001))]
            heard = await asyncio.to_thread(send_all_then_read, gateway.url + "/v1/realtime", pieces)
            assert heard == b"\x88\x06" + struct.pack("!H", 4001) + b"full"
            await gateway.at_rest()
            assert (await gateway.lines(1))[0]["outcome"] == "complete"
        upstream.violations.clear()


async def test_an_upstream_that_closed_and_left_is_heard_too(tmp_path: Path) -> None:
    async def close(peer: Peer, request: Received) -> None:
        await peer.send(b"\x88\x02" + struct.pack("!H", 1013))
        peer.close()

    async with FaultyUpstream(switching(close)) as upstream:
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        async with inside(upstream.url, tmp_path, route=route) as gateway:
            pieces = [FRAME] * 64 + [masked(0x88, struct.pack("!H", 1013))]
            heard = await asyncio.to_thread(send_all_then_read, gateway.url + "/v1/realtime", pieces)
            assert heard == b"\x88\x02" + struct.pack("!H", 1013)
            await gateway.at_rest()
        upstream.violations.clear()


async def test_an_upstream_that_still_sends_hears_the_clients_close(tmp_path: Path) -> None:
    """It reads only when it has sent all, and the client, which has closed, does not read that."""
    codes: list[int | None] = []

    async def server(peer: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(400):
                await peer.send(b"x" * 65_536)
            await peer.recv()
        codes.append(peer.close_code)

    async with sockets(server, tmp_path, serve_with={"compression": None, "write_limit": 1}) as (gateway, url):
        _, writer, _ = await raw(url)
        writer.transport.pause_reading()
        writer.write(masked(0x88, struct.pack("!H", 4002)))
        await gateway.until(lambda: codes == [4002])
        writer.transport.abort()
        await gateway.at_rest()
