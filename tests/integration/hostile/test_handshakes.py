"""TLS clients that never finish their handshake: they count as connections, and end at their deadline."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from downstream import request_bytes
from integration.certificates import Authority
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway import native
from budgateway.records import Tls

pytestmark = pytest.mark.integration
LOOPS = ("uvloop", "asyncio")

ASK = request_bytes("a", "POST", "/v1/chat/completions", b'{"model":"demo"}', [("Content-Type", "application/json"), ("Connection", "close")])  # fmt: skip


def silent(gateway: Inside, stack: ExitStack, count: int) -> list[socket.socket]:
    address = ("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    clients = [stack.enter_context(socket.create_connection(address)) for _ in range(count)]
    for client in clients:
        client.setblocking(False)
    return clients


async def talk(gateway: Inside, authority: Authority) -> bytes:
    port = int(gateway.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client_context())
    writer.write(ASK)
    data = await reader.read()
    writer.close()
    return data


def ended(clients: list[socket.socket]) -> int:
    """Count the connections that the gateway has closed."""
    count = 0
    for client in clients:
        try:
            count += client.recv(100) == b""
        except BlockingIOError:
            pass
        except OSError:
            count += 1
    return count


async def test_silent_handshakes_count_and_end_at_the_heads_deadline(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with FaultyUpstream(faults.chat("well")) as upstream:
        async with inside(
            upstream.url, tmp_path, tls=Tls(*authority.server()), max_connections=5, head_timeout_s=0.5
        ) as gateway:
            server_state = gateway.plane.server_state
            with ExitStack() as stack:
                clients = silent(gateway, stack, 5)
                await gateway.until(lambda: server_state.admitted == 5)
                assert gateway.gauge(native.GAUGE_CONNECTIONS) == 5
                # There is no room, and that is told.
                assert (await talk(gateway, authority)).startswith(b"HTTP/1.1 503 ")
                await gateway.until(lambda: ended(clients) == 5)
                await gateway.until(lambda: server_state.admitted == 0)
            assert (await talk(gateway, authority)).startswith(b"HTTP/1.1 200 ")
            await gateway.until(lambda: server_state.admitted == 0 == server_state.told)
            assert gateway.gauge(native.GAUGE_CONNECTIONS) == 0


async def test_beyond_those_that_can_be_told_they_are_cut_off(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with FaultyUpstream(faults.chat("well")) as upstream:
        async with inside(upstream.url, tmp_path, tls=Tls(*authority.server()), max_connections=2) as gateway:
            server_state = gateway.plane.server_state
            server_state.most_told = 3
            with ExitStack() as stack:
                clients = silent(gateway, stack, 12)
                await gateway.until(lambda: ended(clients) == 7)
                assert (server_state.admitted, server_state.told) == (2, 3)


async def test_what_is_no_handshake_gives_its_place_back(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with FaultyUpstream(faults.chat("well")) as upstream:
        async with inside(upstream.url, tmp_path, tls=Tls(*authority.server()), max_connections=2) as gateway:
            with ExitStack() as stack:
                clients = silent(gateway, stack, 2)
                for client in clients:
                    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                await gateway.until(lambda: ended(clients) == 2)
                await gateway.until(lambda: gateway.plane.server_state.admitted == 0)
            assert (await talk(gateway, authority)).startswith(b"HTTP/1.1 200 ")


async def test_a_handshake_that_is_open_does_not_hold_up_the_end(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with FaultyUpstream(faults.chat("well")) as upstream:
        with ExitStack() as stack:
            async with inside(upstream.url, tmp_path, tls=Tls(*authority.server())) as gateway:
                clients = silent(gateway, stack, 3)
                await gateway.until(lambda: gateway.plane.server_state.admitted == 3)
            async with asyncio.timeout(5):
                while ended(clients) < 3:
                    await asyncio.sleep(0.01)


async def test_without_descriptors_handshakes_wait(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with FaultyUpstream(faults.chat("well")) as upstream:
        async with inside(upstream.url, tmp_path, tls=Tls(*authority.server())) as gateway:
            server_state = gateway.plane.server_state
            server_state.most_here, server_state.most_told = 1, 1
            with ExitStack() as stack:
                clients = silent(gateway, stack, 3)
                await gateway.until(lambda: (server_state.admitted, server_state.told) == (1, 1))
                assert ended(clients) == 0
                clients[0].close()
                clients[1].close()
                await gateway.until(lambda: server_state.admitted + server_state.told == 1)
                clients[2].close()
                await gateway.until(lambda: server_state.admitted + server_state.told == 0)
            assert (await talk(gateway, authority)).startswith(b"HTTP/1.1 200 ")
