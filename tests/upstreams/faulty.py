"""A model server that does to a gateway what real ones do on bad days, and remembers everything it saw.

    async with FaultyUpstream(faults.cut(stream, at=100), faults.json_answer({})) as upstream:
        ...                                    # point a gateway at upstream.url
    assert [request.target for request in upstream.requests] == [...]

Each request takes the next answer of the script; the last one repeats. An answer is a coroutine function of the peer
(who can send, reset, stall, close) and the request; `faults.py` has a catalogue. Requests are read strictly: what is
not HTTP is kept in `violations`, and leaving the `async with` raises AssertionError when there are any.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

from upstreams.wire import NotHttp, Received, RequestScanner

Answer = Callable[["Peer", Received], Awaitable[None]]
# Runs when a connection opens and when it has answered, before its first and next request.
Greeting = Callable[["Peer"], Awaitable[None]]

RESET = struct.pack("ii", 1, 0)  # SO_LINGER that turns the next close into a RST


@dataclass(slots=True)
class Connection:
    """The ledger of one connection. Times are `time.monotonic_ns`; 0 means not yet."""

    number: int
    opened_ns: int = 0
    received: bytearray = field(default_factory=bytearray)
    sent: bytearray = field(default_factory=bytearray)
    peer_left_ns: int = 0  # when the gateway's FIN or RST arrived
    peer_reset: bool = False
    closed_ns: int = 0
    requests: int = 0


class Peer(asyncio.Protocol):
    """One accepted connection, in the hands of an answer."""

    def __init__(self, upstream: FaultyUpstream) -> None:
        self._upstream = upstream
        self._scanner = RequestScanner()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.get_running_loop().create_future()
        self.record = Connection(len(upstream.connections), time.monotonic_ns())

    # what answers do

    @property
    def is_gone(self) -> bool:
        """True when the gateway has closed its side, or the connection is lost."""
        return bool(self.record.peer_left_ns)

    async def send(self, data: bytes) -> None:
        """Write, and wait while the gateway does not read. After the gateway left, nothing happens."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)
            self.record.sent += data
            self._upstream.sent_bytes += len(data)
            self._upstream.changed()
            await self._writable.wait()

    async def drip(self, data: bytes, size: int = 1, pause_s: float = 0.0) -> None:
        """Send in pieces, each in a packet of its own."""
        for at in range(0, len(data), size):
            await self.send(data[at : at + size])
            await asyncio.sleep(pause_s)

    async def gone(self) -> None:
        """Wait until the gateway closes its side."""
        while not self.is_gone:
            await self._next_change()

    async def data_arrives(self) -> bool:
        """Wait for the first byte of a further request; False when the gateway leaves instead."""
        while not self._scanner.pending and not self.is_gone:
            await self._next_change()
        return bool(self._scanner.pending)

    async def request(self) -> Received | None:
        """The next whole request; None when the gateway leaves before it is."""
        begun_ns = 0
        while True:
            if self._scanner.pending and not begun_ns:
                begun_ns = time.monotonic_ns()
            received = self._scanner.take(self.record.number)
            if received is not None:
                received.begun_ns, received.complete_ns = begun_ns, time.monotonic_ns()
                self.record.requests += 1
                self._upstream.arrived(received)
                return received
            if self.is_gone:
                return None
            await self._next_change()

    def read_no_more(self) -> None:
        """Leave everything further in the kernel's buffers, so that the gateway's writes block."""
        assert self._transport is not None
        self._transport.pause_reading()

    def read_on(self) -> None:
        """Be a reader again."""
        assert self._transport is not None
        self._transport.resume_reading()

    def finish(self) -> None:
        """Half-close: FIN after what was sent, reading goes on."""
        assert self._transport is not None
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close both directions once what was sent is out. The kernel sends RST instead of FIN over unread bytes."""
        assert self._transport is not None
        self._transport.close()

    def reset(self) -> None:
        """RST, now."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._transport.abort()

    @property
    def is_closed(self) -> bool:
        """True when a response has ended the connection."""
        assert self._transport is not None
        return self._transport.is_closing()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self._upstream.opened(self)
        self._task = asyncio.create_task(self._serve(), name=f"faulty upstream connection {self.record.number}")

    def data_received(self, data: bytes) -> None:
        self.record.received += data
        self._scanner.feed(data)
        self._change()

    def eof_received(self) -> bool:
        self._left()
        return True  # an answer decides what happens to the other half

    def connection_lost(self, exc: Exception | None) -> None:
        self.record.closed_ns = time.monotonic_ns()
        if not self.is_gone:
            self.record.peer_reset = isinstance(exc, ConnectionResetError | BrokenPipeError)
            self._left()
        self._writable.set()
        if not self._lost.done():
            self._lost.set_result(None)
        self._upstream.closed(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def end(self) -> None:
        """Drop the connection and wait until nothing of it is left."""
        assert self._transport is not None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._transport.abort()
        await self._lost

    async def _serve(self) -> None:
        try:
            if self._upstream.greeting is not None:
                await self._upstream.greeting(self)
            while not self.is_closed and (request := await self.request()) is not None:
                await self._upstream.next_answer()(self, request)
        except NotHttp as error:
            self._upstream.violations.append(f"connection {self.record.number}: {error}")
        except Exception as error:
            self._upstream.violations.append(f"connection {self.record.number}: the answer failed: {error!r}")
            raise
        self.close()

    def _left(self) -> None:
        if not self.record.peer_left_ns:
            self.record.peer_left_ns = time.monotonic_ns()
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._upstream.changed()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class FaultyUpstream:
    """The server: a script of answers, and the ledger of what came. See the module."""

    def __init__(
        self,
        *script: Answer,
        greeting: Greeting | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.greeting = greeting
        self.connections: list[Connection] = []
        self.requests: list[Received] = []
        self.violations: list[str] = []
        self.sent_bytes = 0
        self._script = list(script)
        self._served = 0
        self._host = host
        self._port = port
        self._tls = tls
        self._peers: set[Peer] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        """`http://host:port`, once started; `https` with TLS."""
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """The port, once started."""
        return self._port

    @property
    def open_connections(self) -> int:
        """The number of connections that neither side has closed."""
        return sum(1 for connection in self.connections if not connection.peer_left_ns and not connection.closed_ns)

    def script(self, *answers: Answer) -> None:
        """Answer like this from the next request on."""
        self._script, self._served = list(answers), 0

    async def until(self, condition: Callable[[FaultyUpstream], bool], timeout_s: float = 20.0) -> None:
        """Wait for something in the ledger; raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def start(self) -> None:
        """Bind and listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), self._host, self._port, backlog=4096, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        """Refuse new connections from now on; open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        await self.stop_listening()
        await asyncio.gather(*(peer.end() for peer in list(self._peers)))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if error is None:
            assert not self.violations, self.violations

    # the peers' side

    def opened(self, peer: Peer) -> None:
        """Enter a new connection."""
        self.connections.append(peer.record)
        self._peers.add(peer)
        self.changed()

    def closed(self, peer: Peer) -> None:
        """A connection is no more; its ledger stays."""
        self._peers.discard(peer)
        self.changed()

    def arrived(self, request: Received) -> None:
        """Enter a whole request."""
        self.requests.append(request)
        self.changed()

    def changed(self) -> None:
        """Wake who waits for the ledger."""
        self._changed.set()

    def next_answer(self) -> Answer:
        """The answer for the request that just arrived."""
        assert self._script, "this upstream expected no request"
        answer = self._script[min(self._served, len(self._script) - 1)]
        self._served += 1
        return answer
