"""Frames through the tunnel and its scanner, without sockets: what a message costs the gateway."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from budgateway.exchange.exchange_cy import Exchange
from budgateway.exchange.handler_cy import ExchangeHandler
from budgateway.native import FrameScanner, RequestHead
from budgateway.records import WebSocket
from budgateway.server.state_cy import ServerState
from budgateway.server.websocket import SocketCounts, Tunnel


def frame(size: int, first: int = 0x81) -> bytes:
    """A masked frame, as a client sends it."""
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0xFE)) + struct.pack("!H", size)
    else:
        head = bytes((first, 0xFF)) + struct.pack("!Q", size)
    return head + b"\0\0\0\0" + b"x" * size


# A token's event, a fifth of a second of audio, a read of a large message, and many small messages in one read.
SHAPES = {
    "event": frame(150),
    "audio": frame(6_400),
    "piece": b"x" * 65_536,
    "batch": frame(60) * 100,
}


class Sink:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.end: Any = None
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def set_protocol(self, end: Any) -> None:
        self.end = end

    def set_write_buffer_limits(self, high: int) -> None: ...
    def resume_reading(self) -> None: ...


@pytest.mark.parametrize("shape", SHAPES)
def test_a_read_through_the_tunnel(benchmark: Any, shape: str) -> None:
    head = RequestHead.parse(b"GET /v1/realtime HTTP/1.1\r\nhost: a\r\n\r\n")
    assert head is not None
    server_state = ServerState(
        ExchangeHandler(), lambda call: None, keepalive_ns=1, head_timeout_ns=1, max_body_bytes=1, max_connections=1
    )
    limits = WebSocket(max_message_bytes=1 << 50)
    tunnel = Tunnel(ExchangeHandler(), Exchange(head, None, "c", 0), server_state, limits, False, SocketCounts())
    client, upstream = Sink(), Sink()
    tunnel.open(client, upstream, b"", b"", b"")
    read = SHAPES[shape]
    if shape == "piece":
        client.end.data_received(b"\x82\xff" + struct.pack("!Q", 1 << 49) + b"\0\0\0\0")
    received = client.end.data_received
    benchmark(received, read)
    assert upstream.written % len(read) == (14 if shape == "piece" else 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_read_through_the_scanner(benchmark: Any, shape: str) -> None:
    scanner = FrameScanner(True, False, 1 << 50)
    if shape == "piece":
        scanner.feed(b"\x82\xff" + struct.pack("!Q", 1 << 49) + b"\0\0\0\0")
    assert benchmark(scanner.feed, SHAPES[shape]) is SHAPES[shape]
