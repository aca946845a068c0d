"""WebSocket through the gateway, with `websockets` at both ends and raw sockets where it is about single bytes (W1)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.certificates import Authority
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from budgateway.records import Secret, Tls, WebSocket
from budgateway.server import websocket
from budgateway.wire.websocket import accept_of

pytestmark = pytest.mark.integration
LOOPS = ("uvloop", "asyncio")

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
]
Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(peer: ServerConnection) -> None:
    async for message in peer:
        await peer.send(message)


@asynccontextmanager
async def sockets(
    handler: Handler,
    tmp_path: Path,
    limits: WebSocket | None = None,
    provider: dict[str, Any] | None = None,
    serve_with: dict[str, Any] | None = None,
    scheme: str = "http",
    **settings: Any,
) -> AsyncIterator[tuple[Inside, str]]:
    """A WebSocket server behind a gateway with one route, and the URL to connect to."""
    options = {"max_size": None, "ping_interval": None, **(serve_with or {})}
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        route = {"websocket": limits or WebSocket(), "methods": ("GET",)}
        url = f"{scheme}://127.0.0.1:{port}"
        async with inside(url, tmp_path, route=route, provider=provider, **settings) as gateway:
            yield gateway, gateway.url.replace("http", "ws", 1) + "/v1/realtime"


def plain(url: str, **options: Any) -> connect:
    return connect(url, max_size=None, ping_interval=None, **options)


async def test_messages_pass_both_ways_byte_for_byte(tmp_path: Path) -> None:
    async with sockets(echo, tmp_path) as (gateway, url):
        async with plain(url, compression=None) as client:
            for message in ("", "text \u00fc", b"\x00\xff" * 5, "x" * 125, "x" * 126, b"y" * 65_535, b"z" * 65_536):
                await client.send(message)
                assert await client.recv() == message
            assert await (await client.ping(b"are you there")) >= 0
        assert (client.close_code, client.close_reason) == (1000, "")
        await gateway.at_rest()
        (line,) = await gateway.lines(1)
        assert (line["status"], line["outcome"], line["method"]) == (101, "complete", "GET")
        assert line["bytes_in"] > 131_000 and line["bytes_out"] > 131_000
        assert gateway.upstream_connections == 0  # never pooled


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_a_fragmented_message_of_ten_megabytes(tmp_path: Path, compression: str | None) -> None:
    piece = os.urandom(700_001)
    async with sockets(echo, tmp_path, serve_with={"compression": compression}) as (gateway, url):
        async with plain(url, compression=compression) as client:
            sending = asyncio.create_task(client.send([piece] * 15))
            assert await client.recv() == piece * 15
            await sending
        await gateway.at_rest()


async def test_compression_is_between_the_ends_and_can_be_refused(tmp_path: Path) -> None:
    async with sockets(echo, tmp_path) as (_, url), plain(url) as client:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        await client.send("compress me " * 100)
        assert await client.recv() == "compress me " * 100
    async with sockets(echo, tmp_path, WebSocket(compression=False)) as (_, url), plain(url) as client:
        assert client.protocol.extensions == []


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("code", [1000, 1008, 4999])
async def test_close_codes_are_relayed_soon(tmp_path: Path, who: str, code: int) -> None:
    heard: list[tuple[int | None, str | None, int]] = []
    go = asyncio.Event()

    async def server(peer: ServerConnection) -> None:
        if who == "server":
            await go.wait()
            await peer.close(code, "why")
        else:
            with contextlib.suppress(ConnectionClosed):
                await peer.recv()
        heard.append((peer.close_code, peer.close_reason))

    async with sockets(server, tmp_path) as (gateway, url):
        async with plain(url) as client:
            if who == "client":
                await client.close(code, "why")
            else:
                go.set()
                with contextlib.suppress(ConnectionClosed):
                    await client.recv()
                heard.append((client.close_code, client.close_reason))
        assert (client.close_code, client.close_reason) == (code, "why")
        await gateway.at_rest()
        await gateway.until(lambda: len(heard) == (1 if who == "client" else 2))
        assert heard[0] == (code, "why")
        assert (await gateway.lines(1))[0]["outcome"] == "complete"


async def test_a_peer_that_vanishes_is_told_to_the_other(tmp_path: Path) -> None:
    """1006 has no frame: the client hears 1011, the upstream 1001."""
    codes: list[int | None] = []

    async def server(peer: ServerConnection) -> None:
        try:
            assert await peer.recv() == "vanish"
            peer.transport.abort()
        except ConnectionClosed:
            codes.append(peer.close_code)

    async with sockets(server, tmp_path) as (gateway, url):
        async with plain(url) as client:
            await client.send("vanish")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == CloseCode.INTERNAL_ERROR
        await gateway.at_rest()
        client = await plain(url)
        client.transport.abort()
        await gateway.until(lambda: bool(codes))
        assert codes == [CloseCode.GOING_AWAY]
        await gateway.at_rest()
        assert [line["outcome"] for line in await gateway.lines(2)] == ["truncated", "client_gone"]


async def test_a_message_above_the_limit_ends_in_1009(tmp_path: Path) -> None:
    codes: list[int | None] = []

    async def server(peer: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            message = await peer.recv()
            assert message == "ok"
            await peer.send("too much" * 1000)
            await peer.recv()
        codes.append(peer.close_code)

    async with sockets(server, tmp_path, WebSocket(max_message_bytes=1000)) as (gateway, url):
        async with plain(url, compression=None) as client:
            with pytest.raises(ConnectionClosed):
                await client.send(["x" * 600, "x" * 600])
                await client.recv()
            assert client.close_code == 1009
        async with plain(url, compression=None) as client:
            await client.send("ok")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1011
        await gateway.at_rest()
        await gateway.until(lambda: len(codes) == 2)
        assert codes == [1001, 1009]
        assert [line["error"] for line in await gateway.lines(2)] == ["request_too_large", "upstream_protocol"]


async def test_an_idle_socket_is_closed(tmp_path: Path) -> None:
    codes: list[int | None] = []

    async def server(peer: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await peer.recv()
        codes.append(peer.close_code)

    async with sockets(server, tmp_path, WebSocket(idle_s=0.3)) as (gateway, url):
        async with plain(url) as client:
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert (client.close_code, client.close_reason) == (1001, "idle for 0.3 s")
        await gateway.at_rest()
        await gateway.until(lambda: codes == [1001])
        assert (await gateway.lines(1))[0]["error"] == "idle_timeout"


async def test_a_drain_closes_sockets_at_its_deadline(tmp_path: Path) -> None:
    async with sockets(echo, tmp_path) as (gateway, url):
        async with plain(url) as client:
            draining = asyncio.create_task(gateway.plane.drain(0.2))
            await client.send("still here")
            assert await client.recv() == "still here"
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1001
            await draining
        assert not gateway.plane.server_state.connections


async def test_tls_on_both_sides(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with sockets(
        echo, tmp_path, provider={"tls_ca_file": str(authority.ca_file)}, scheme="https",
        serve_with={"ssl": authority.server_context()}, tls=Tls(*authority.server()),
    ) as (gateway, url):  # fmt: skip
        async with plain(url, ssl=authority.client_context()) as client:
            for message in ("small", b"large" * 100_000):
                await client.send(message)
                assert await client.recv() == message
            await client.close(4001, "done")
        assert client.close_code == 4001
        await gateway.at_rest()


async def test_what_goes_upstream(tmp_path: Path) -> None:
    """Subprotocols but credentials; the model by the upstream's name; the provider's key; nothing of the client's own."""
    seen: list[Any] = []

    async def server(peer: ServerConnection) -> None:
        assert peer.request is not None
        seen.append((peer.request.path, dict(peer.request.headers.raw_items())))

    provider = {"aliases": (("voice", "gpt-realtime/2"),), "api_key": Secret("sk-provider")}
    async with sockets(server, tmp_path, provider=provider, serve_with={"subprotocols": ["realtime"]}) as (
        gateway,
        url,
    ):
        async with plain(
            f"{url}?x=%20&model=voice",
            subprotocols=["realtime", "openai-insecure-api-key.sk-of-the-client", "openai-organization.org-1"],
            additional_headers={"Cookie": "a=b", "OpenAI-Beta": "realtime=v1", "X-Other": "y"},
            origin="https://example.com",
        ) as client:
            assert client.subprotocol == "realtime"
        await gateway.at_rest()
        assert (await gateway.lines(1))[0]["model"] == "voice"
    ((path, headers),) = seen
    assert path == "/v1/realtime?x=%20&model=gpt-realtime%2F2"
    names = {name.lower(): value for name, value in headers.items()}
    assert names.pop("sec-websocket-key")
    assert names.pop("x-request-id")
    assert names.pop("sec-websocket-extensions").startswith("permessage-deflate")
    assert names.pop("host").startswith("127.0.0.1:")
    assert names.pop("user-agent")
    assert names == {
        "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "openai-beta": "realtime=v1",
        "sec-websocket-protocol": "realtime", "authorization": "Bearer sk-provider",
    }  # fmt: skip


# ---------------------------------------------------------------- the handshake


def without(name: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in HANDSHAKE if key != name] + list(more)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 426),
        (without("Upgrade", ("Upgrade", "h2c")), 426),
        (without("Connection"), 426),
        (without("Sec-WebSocket-Version"), 426),
        (without("Sec-WebSocket-Version", ("Sec-WebSocket-Version", "8")), 426),
        (without("Sec-WebSocket-Key"), 400),
        (without("Sec-WebSocket-Key", ("Sec-WebSocket-Key", "dG9vIHNob3J0")), 400),
        ([*HANDSHAKE, ("Sec-WebSocket-Key", KEY)], 400),
        ([*HANDSHAKE, ("Sec-WebSocket-Protocol", "a, a")], 400),
        ([*HANDSHAKE, ("Sec-WebSocket-Protocol", "a b")], 400),
    ],
)
async def test_a_handshake_that_is_none_never_reaches_an_upstream(
    tmp_path: Path, headers: list[tuple[str, str]], status: int
) -> None:
    async with FaultyUpstream(faults.echo()) as upstream:
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        async with inside(upstream.url, tmp_path, route=route) as gateway, Downstream(gateway.url) as client:
            answer = await client.ask("GET", "/v1/realtime", headers=headers)
            assert answer.status == status
            if status == 426:
                assert answer.header("upgrade") == "websocket"
                assert answer.header("sec-websocket-version") == "13"
                assert "upgrade" in (answer.header("connection") or "").lower()
            assert (await client.ask("POST", "/v1/realtime", b"{}")).status == 405
        assert not upstream.requests


async def test_an_upgrade_that_no_route_takes_is_an_ordinary_request(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.echo()) as upstream:
        async with inside(upstream.url, tmp_path) as gateway, Downstream(gateway.url) as client:
            assert (await client.ask("GET", "/v1/realtime", headers=HANDSHAKE)).status == 200
        (request,) = upstream.requests
        assert not {"upgrade", "sec-websocket-key"} & {name.lower() for name, _ in request.headers}


def switching(after: Callable[[Peer, Received], Awaitable[None]], **changed: str | None) -> Any:
    """An upstream that answers 101, with headers left out or changed."""

    async def answer(peer: Peer, request: Received) -> None:
        key = next(value for name, value in request.headers if name.lower() == "sec-websocket-key")
        headers: dict[str, str | None] = {
            "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-accept": accept_of(key),
        }  # fmt: skip
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
        await peer.send(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode())
        await after(peer, request)

    return answer


async def nothing(peer: Peer, request: Received) -> None:
    """Wait until the gateway leaves."""
    while not peer.is_gone:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "changed",
    [
        {"sec_websocket_accept": None},
        {"sec_websocket_accept": accept_of(KEY)},
        {"upgrade": "h2c"},
        {"upgrade": None},
        {"sec_websocket_protocol": "never-offered"},
        {"sec_websocket_extensions": "permessage-deflate"},
    ],
)
async def test_a_101_that_is_not_the_answer_is_a_bad_upstream(tmp_path: Path, changed: dict[str, str | None]) -> None:
    async with FaultyUpstream(switching(nothing, **changed)) as upstream:
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        async with inside(upstream.url, tmp_path, route=route) as gateway, Downstream(gateway.url) as client:
            answer = await client.ask("GET", "/v1/realtime", headers=HANDSHAKE)
            assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_protocol")
            await gateway.at_rest()


async def test_another_answer_than_101_is_an_ordinary_response(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.status(403, body={"no": "thanks"})) as upstream:
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        async with inside(upstream.url, tmp_path, route=route) as gateway, Downstream(gateway.url) as client:
            for _ in range(2):
                answer = await client.ask("GET", "/v1/realtime", headers=HANDSHAKE)
                assert (answer.status, answer.json()) == (403, {"no": "thanks"})
            await gateway.at_rest()


async def test_not_a_byte_passes_before_the_101(tmp_path: Path) -> None:
    """Frames that came too early wait for it; an upstream that declines never sees them."""
    frame = b"\x81\x82\x00\x00\x00\x00hi"
    asked = asyncio.Event()
    go = asyncio.Event()
    seen: list[bytes] = []

    async def serve_raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await go.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                seen.append(await reader.read(100))
        key = re.search(rb"sec-websocket-key: (\S+)", head)
        assert key is not None
        accept = accept_of(key[1].decode()).encode()
        # The first frame of the server comes with its 101.
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\nsec-websocket-accept: "
            + accept + b"\r\n\r\n\x81\x02yo"
        )  # fmt: skip
        seen.append(await reader.readexactly(len(frame)))
        writer.close()

    async with await asyncio.start_server(serve_raw, "127.0.0.1", 0) as server:
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with inside(url, tmp_path, route=route) as gateway:
            host = gateway.url.removeprefix("http://")
            reader, writer = await asyncio.open_connection(*host.split(":"))
            writer.write(request_bytes(host, "GET", "/v1/realtime", b"", HANDSHAKE) + frame)
            await asked.wait()
            go.set()
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(4) == b"\x81\x02yo"
            # It left without a close frame: the client is told 1011.
            assert (await reader.readexactly(4))[2:] == b"\x03\xf3"
            writer.close()
            await gateway.at_rest()
    assert seen == [frame]


# ---------------------------------------------------------------- bytes


async def raw(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """A handshake by hand: both streams, and the head of the 101."""
    host, _, port = url.split("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_bytes(f"{host}:{port}", "GET", "/v1/realtime", b"", HANDSHAKE))
    return reader, writer, await reader.readuntil(b"\r\n\r\n")


def masked(first: int, payload: bytes, mask: bytes = b"\x11\x22\x33\x44") -> bytes:
    size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes((first,)) + size + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))


async def test_one_byte_at_a_time(tmp_path: Path) -> None:
    async with sockets(echo, tmp_path) as (gateway, url):
        reader, writer, head = await raw(url)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert f"sec-websocket-accept: {accept_of(KEY)}\r\n".encode() in head
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in masked(0x01, b"hel") + masked(0x89, b"p") + masked(0x80, b"lo") + masked(0x88, b"\x03\xe8"):
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.read() == b"\x8a\x01p" + b"\x81\x05hello" + b"\x88\x02\x03\xe8"
        writer.close()
        await gateway.at_rest()


async def test_a_client_without_masks_is_told_1002(tmp_path: Path) -> None:
    async with sockets(echo, tmp_path) as (gateway, url):
        reader, writer, _ = await raw(url)
        writer.write(masked(0x81, b"good"))
        assert await reader.readexactly(6) == b"\x81\x04good"
        writer.write(b"\x81\x01x")
        frame = await reader.readexactly(4)
        assert frame[:1] + frame[2:] == b"\x88\x03\xea"
        writer.close()
        await gateway.at_rest()
        assert (await gateway.lines(1))[0]["error"] == "bad_request"


async def test_a_slow_reader_holds_the_other_back(tmp_path: Path) -> None:
    """The gateway's buffer for it is bounded: the sender stalls."""
    sent = 0

    async def server(peer: ServerConnection) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionClosed):
            for _ in range(2000):
                await peer.send(b"x" * 32_768)
                sent += 1

    async with sockets(server, tmp_path, serve_with={"compression": None, "write_limit": 1}) as (gateway, url):
        reader, writer, _ = await raw(url)
        transport = writer.transport
        transport.pause_reading()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 2000
        transport.resume_reading()
        size = 0
        while data := await reader.read(1 << 20):
            size += len(data)
            if size >= 2000 * (32_768 + 4):
                writer.write(masked(0x88, b"\x03\xe8"))
        writer.close()
        assert sent == 2000
        await gateway.at_rest()


async def test_inside_a_frame_there_is_no_place_for_another(tmp_path: Path) -> None:
    """Half a frame and no more: the upstream is cut off (1006), not told in the middle of it."""
    half = masked(0x82, b"x" * 1000)[:500]

    async with FaultyUpstream(switching(nothing)) as upstream:
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        async with inside(upstream.url, tmp_path, route=route) as gateway:
            _, writer, _ = await raw(gateway.url + "/v1/realtime")
            writer.write(half)
            connection = upstream.connections[0]
            await gateway.until(lambda: connection.received.endswith(half))
            writer.transport.abort()
            await upstream.until(lambda up: up.open_connections == 0)
            assert connection.received.endswith(b"\r\n\r\n" + half)
            await gateway.at_rest()
            assert (await gateway.lines(1))[0]["outcome"] == "client_gone"
        upstream.violations.clear()


async def test_a_close_that_nobody_answers_ends_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_NS", 300_000_000)
    async with FaultyUpstream(switching(nothing)) as upstream:
        route = {"websocket": WebSocket(), "methods": ("GET",)}
        async with inside(upstream.url, tmp_path, route=route) as gateway:
            reader, writer, _ = await raw(gateway.url + "/v1/realtime")
            writer.write(masked(0x88, b"\x03\xe8"))
            assert await reader.read() == b""
            writer.close()
            await gateway.until(lambda: not gateway.plane.server_state.connections)
            await gateway.at_rest()
            assert (await gateway.lines(1))[0]["error"] == "close_timeout"
        upstream.violations.clear()  # a close frame is no HTTP, and this server knows nothing else


async def test_who_reads_nothing_is_let_go(tmp_path: Path) -> None:
    codes: list[int | None] = []

    async def server(peer: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await peer.send(b"x" * 65_536)
        codes.append(peer.close_code)

    limits = WebSocket(idle_s=0.5)
    async with sockets(server, tmp_path, limits, serve_with={"compression": None}) as (gateway, url):
        _, writer, _ = await raw(url)
        writer.transport.pause_reading()
        await gateway.until(lambda: not gateway.in_flight and bool(gateway.plane.relay.sockets.bytes_out))
        writer.transport.abort()
        await gateway.until(lambda: codes == [1001])
        await gateway.at_rest()


async def test_a_hundred_sockets_at_once(tmp_path: Path) -> None:
    await many(100, tmp_path)


@pytest.mark.soak
async def test_a_thousand_sockets_at_once(tmp_path: Path) -> None:
    await many(1000, tmp_path)


async def many(count: int, tmp_path: Path) -> None:
    async with sockets(echo, tmp_path, serve_with={"compression": None}) as (gateway, url):
        clients: list[ClientConnection] = []
        for at in range(0, count, 50):
            clients += await asyncio.gather(
                *(plain(url, compression=None, open_timeout=60) for _ in range(at, at + 50))
            )
        assert gateway.in_flight == count

        async def talk(number: int, client: ClientConnection) -> None:
            for turn in range(3):
                await client.send(f"{number}/{turn}")
                assert await client.recv() == f"{number}/{turn}"
            await client.close(4000 + number % 1000)

        await asyncio.gather(*(talk(number, client) for number, client in enumerate(clients)))
        await gateway.at_rest()
        counts = gateway.plane.relay.sockets
        assert (counts.open, counts.frames_in, counts.frames_out) == (0, 4 * count, 4 * count)
        assert not gateway.plane.server_state.connections


async def test_another_upstream_when_the_first_is_down(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with serve(echo, "127.0.0.1", 0) as server:
            live = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            route = {"websocket": WebSocket(), "methods": ("GET",)}
            async with inside([dead, live], tmp_path, route=route) as gateway:
                for _ in range(2):
                    async with plain(gateway.url.replace("http", "ws", 1) + "/v1/realtime") as client:
                        await client.send("hi")
                        assert await client.recv() == "hi"
