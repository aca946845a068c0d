"""A connection to an upstream: writes requests, parses responses, returns to its pool when both are complete.

As on the server side, llhttp is the parser of record and the native scan finds the end of a message. Bytes after the
end of a response are an attack or a defect: the connection is dropped.
"""

from __future__ import annotations

from array import array
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from budgateway.errors import UpstreamProtocolError
from budgateway.exchange.exchange_cy import Exchange
from budgateway.exchange.handler_cy import ExchangeHandler
from budgateway.native import FACTS, HeadReader, Idle, Transport
from budgateway.wire.framing_cy import Framing
from budgateway.wire.inference import ERROR_BODIES

if TYPE_CHECKING:
    import asyncio

    from budgateway.native import BodyPump, Redactor, RequestHeadWriter, ResponseHead
    from budgateway.records import Upstream

MAX_HEAD_BYTES = 32 * 1024  # RELIABILITY 1; the native scan has the same limit
MAX_INTERIM = 8  # 1xx heads before the real one
WRITE_HIGH_BYTES = 256 * 1024  # above it, a streamed request body pauses its client
READ_BYTES = 16 * 1024  # R13: a read adds this to the 24 KiB buffered for a slow client, and to an incomplete event

# Cells of the pool's `facts`: the fields of the last head scanned.
_SIZE = 0
_FLAGS = 1
_LENGTH = 2
_STATUS = 3
_READ_NS = 4

_KEEP_ALIVE = 1
_CHUNKED = 2
_NO_BODY = 512

# Framing of a response's body.
_BY_LENGTH = 0
_BY_CHUNKS = 1
_BY_CLOSE = 2


def response_parser(framing: Any) -> HttpResponseParser:
    """Return an llhttp parser that reports to `framing`."""
    return HttpResponseParser(framing)


class Pool:
    """The connections to one upstream. Idle ones are reused last in, first out, so that surplus ones age and are
    closed."""

    def __init__(self, *, keepalive_ns: int, max_idle: int) -> None:
        # Engines close idle connections (vLLM and SGLang after 5 s): close ours first.
        self.idle = Idle(keepalive_ns, max_idle)
        self.open: set[ClientConnection] = set()
        self.last_heard_ns = 0
        facts = array("q", bytes(8 * FACTS))
        self.facts = facts
        self.read_head = HeadReader(facts, ERROR_BODIES).response
        # One read buffer for all connections: the bytes are copied out before the next read.
        self.buffer = bytearray(READ_BYTES)

    def checkout(self, now_ns: int) -> ClientConnection | None:
        """Return a warm connection, or None when one must be dialled."""
        while True:
            connection: ClientConnection | None = self.idle.pop(now_ns)
            if connection is None or connection.is_usable():
                return connection
            connection.abort()

    def put(self, connection: ClientConnection) -> None:
        """Take back a connection whose exchange is over, idle since its `idle_since_ns`; abort it when there is no
        room."""
        if not self.idle.push(connection, connection.plain, connection.idle_since_ns):
            connection.abort()

    def forget(self, connection: ClientConnection) -> None:
        """Remove a lost connection."""
        self.open.discard(connection)
        self.idle.remove(connection)

    def sweep(self, now_ns: int) -> None:
        """Abort connections that were idle for too long, and share the latest `last_heard_ns` with the fast path."""
        self.last_heard_ns = self.idle.hear(self.last_heard_ns)
        for connection in self.idle.stale(now_ns):
            connection.abort()

    def close(self) -> None:
        """Abort every idle connection; busy ones follow when their exchange ends."""
        for connection in self.idle.close():
            connection.abort()

    def idle_count(self) -> int:
        """Return the number of idle connections."""
        return len(self.idle)


class Target:
    """One upstream as the relay sees it. Belongs to a snapshot; its pool may be older, because connections survive a
    reload."""

    def __init__(
        self,
        upstream: Upstream,
        label: str,
        pool: Pool,
        writer: RequestHeadWriter,
        dialler: Any,
        *,
        disclose: bool,
        redactor: Redactor | None = None,
    ) -> None:
        """`label` names the upstream in logs and errors, and to clients if `disclose`. `redactor` finds what its
        responses must not reveal."""
        self.upstream = upstream
        self.label = label
        self.pool = pool
        self.writer = writer
        self.write_head = writer.write
        self.write_whole = writer.write_whole
        self.relocate = writer.relocate
        self.dialler = dialler
        self.redactor = redactor
        self.disclosure = f"x-budgateway-upstream: {label}\r\n".encode("ascii") if disclose else b""


class ClientConnection:
    """A connection to an upstream, as an asyncio protocol. Reports to its `ExchangeHandler`."""

    def __init__(self, pool: Pool, handler: ExchangeHandler) -> None:
        # process
        self._pool = pool
        self._handler = handler
        # connection
        self._transport: Any = None
        self.plain: Transport | None = None
        self._framing = Framing()
        self._feed: Any = HttpResponseParser(self._framing).feed_data
        self._write: Any = None
        self.idle_since_ns = 0
        self._reading = True
        self._ended = False
        self.writable = True
        # exchange
        self._exchange: Exchange | None = None
        self._begun = False
        self._pump: BodyPump | None = None
        self._pending: bytearray | None = None
        self._is_head = False
        self._sent_all = False
        self._interim = 0
        self._left = 0
        self._framed = _BY_LENGTH
        self._keep = False

    # ---------------------------------------------------------------- for the relay

    def send(self, x: Exchange, head: bytes, body: bytes | None, is_head: bool, last: bool) -> None:
        """Write a request: its head and (the beginning of) its body; `last` when there is no more body."""
        self.adopt(x)
        self._is_head = is_head
        self._sent_all = last
        if body is None:
            self._write(head)
        elif len(body) < 2048:
            # One small buffer beats two: the copy is cheaper than a second iovec.
            self._write(head + body)
        else:
            self._transport.writelines((head, body))

    def adopt(self, x: Exchange) -> None:
        """Expect the response to a request that was written by the fast path or by `send`."""
        self._exchange = x
        x.heard = False
        self._begun = False
        self._pending = None
        self._is_head = False
        self._sent_all = True
        self._interim = 0

    def send_more(self, data: bytes, last: bool) -> None:
        """Write more of a streamed request body."""
        self._sent_all = last
        if data:
            self._write(data)

    def pause_reading(self) -> None:
        """Stop reading: the client reads slower than the upstream writes."""
        if self._reading and self._exchange is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo pause_reading."""
        if not self._reading:
            self._reading = True
            if self._transport is not None:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection and whatever is in progress on it, without a report."""
        self._exchange = None
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    def rebind(self, x: Exchange) -> None:
        """Continue for `x`, the exchange whose twin sent the request."""
        if self._exchange is not None:
            self._exchange = x
            if not x.downstream.writable:
                self.pause_reading()

    def surrender(self) -> Any:
        """Hand the transport over to the caller; it never comes back to the pool."""
        transport = self._transport
        self._pool.forget(self)
        self._exchange = None
        self._ended = True
        self._feed = None
        self._write = None
        self._transport = None
        return transport

    def is_usable(self) -> bool:
        """Return False once the upstream has hung up."""
        return self._transport is not None and not self._ended

    # ---------------------------------------------------------------- asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Set the transport up. With TLS, the handshake is done."""
        self._transport = transport
        self._write = transport.write
        if isinstance(self._transport, Transport):
            self.plain = self._transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._pool.open.add(self)

    def get_buffer(self, size_hint: int) -> bytearray:
        """Return the buffer to read into; uvloop's own would take 256 KiB."""
        return self._pool.buffer

    def buffer_updated(self, size: int) -> None:
        """Handle `size` bytes from the upstream in the read buffer."""
        raw = self._pool.buffer
        self._read(bytes(raw[:size]))

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the upstream, on loops that do not use `get_buffer` of a plain cdef class (asyncio's
        own)."""
        self._read(data)

    def _read(self, data: bytes) -> None:
        x = self._exchange
        if x is None:
            # Unsolicited bytes must not become the next client's response.
            self._transport.abort()
            return
        x.heard = True
        try:
            if not self._begun:
                self._read_head(x, data)
            else:
                self._read_body(x, data)
        except Exception as error:  # noqa: BLE001 - a callback's edge: a defect must not leave the exchange in flight
            self._fail(x, error)

    def eof_received(self) -> None:
        """Abort, so that `connection_lost` reports the end at once and not after our own unsent bytes."""
        self._ended = True
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Report to the exchange that its connection is lost, or that its response ended with the connection."""
        self._pool.forget(self)
        self._feed = None
        self._write = None
        self._transport = None
        x = self._exchange
        self._exchange = None
        if x is None:
            return
        try:
            self._report_end(x, error)
        except Exception as defect:  # noqa: BLE001 - a callback's edge
            self._handler.crashed(x, defect)

    def _report_end(self, x: Exchange, error: Exception | None) -> None:
        # TLS ends with close_notify, which is an EOF here; a bare FIN may be an attacker's (RFC 9112 9.8).
        if self._framed == _BY_CLOSE and self._begun and error is None and self._ended:
            x.read_ns = monotonic_ns()
            self._handler.response_end(x, None, x.read_ns)
        elif self._begun or self._pending is not None:
            self._handler.lost(
                x, UpstreamProtocolError(f"upstream {x.target.label} closed the connection mid-response")
            )
        else:
            self._handler.lost(
                x, UpstreamProtocolError(f"upstream {x.target.label} closed the connection without a response")
            )

    def pause_writing(self) -> None:
        """Report that the upstream takes a streamed body slower than the client sends it."""
        self.writable = False
        self._report_room(False)

    def resume_writing(self) -> None:
        """Undo pause_writing."""
        self.writable = True
        self._report_room(True)

    def _report_room(self, ok: bool) -> None:
        x = self._exchange
        if x is not None:
            try:
                self._handler.upstream_writable(x, ok)
            except Exception as error:  # noqa: BLE001 - a callback's edge
                self._fail(x, error)

    def _fail(self, x: Exchange, error: Exception) -> None:
        """End the exchange after a defect of ours, and its connection unless that serves another exchange by now."""
        if self._exchange is x:
            self.abort()
        self._handler.crashed(x, error)

    # ---------------------------------------------------------------- reading

    def _read_head(self, x: Exchange, data: bytes) -> None:
        if self._pending is not None:
            seen = len(self._pending)
            self._pending += data
            if (
                len(self._pending) <= MAX_HEAD_BYTES
                and self._pending.find(b"\r\n\r\n", seen - 3 if seen > 3 else 0) < 0
            ):
                return
            data = bytes(self._pending)
            self._pending = None
        pool = self._pool
        while True:
            try:
                head = pool.read_head(data, self._is_head)
            except UpstreamProtocolError as error:
                self._broken(x, str(error), None)
                return
            if head is None:
                self._pending = bytearray(data)
                return
            if pool.facts[_STATUS] >= 200:
                break
            # Interim responses are not forwarded: the client got its own 100.
            if head.status == 101 and x.handshake is not None:
                self._switch(x, head, data)
                return
            self._interim += 1
            if self._interim > MAX_INTERIM or pool.facts[_STATUS] == 101:
                self._broken(x, f"sent an unexpected {pool.facts[_STATUS]}", None)
                return
            data = data[pool.facts[_SIZE] :]
            if not data:
                return
        self._begin(x, head, data)

    def _switch(self, x: Exchange, head: ResponseHead, data: bytes) -> None:
        """Report a 101: the bytes behind its head are not HTTP."""
        try:
            self._feed(data[: head.size])
        except HttpParserUpgrade:
            self._handler.switched(x, self, head, data[head.size :])
        except HttpParserError as error:
            self._broken(x, str(error).lower(), None)
        else:
            self._broken(x, "its framing is ambiguous", None)

    def _begin(self, x: Exchange, head: ResponseHead, data: bytes) -> None:
        """Handle a complete head: `data` starts with it and may include part or all of its body."""
        pool = self._pool
        flags = pool.facts[_FLAGS]
        size = pool.facts[_SIZE]
        length = pool.facts[_LENGTH]
        have = len(data)
        x.status = pool.facts[_STATUS]
        x.read_ns = pool.facts[_READ_NS]
        x.response_flags = flags
        x.declared_length = length
        self._keep = (flags & _KEEP_ALIVE) != 0
        self._framed = _BY_LENGTH
        if flags & _NO_BODY:
            length = 0
        elif flags & _CHUNKED:
            self._framed = _BY_CHUNKS
        elif length < 0:
            self._framed = _BY_CLOSE
        end = size + length
        if self._framed == _BY_LENGTH and end <= have:
            if not self._parse(x, data if end == have else memoryview(data)[:end], None):
                return
            framing = self._framing
            if flags & _NO_BODY and not framing.complete:
                # llhttp cannot know that the request was HEAD and waits for a body.
                self._feed = HttpResponseParser(framing).feed_data
                framing.complete = True
            self._deliver(x, head, None, end, have)
            return
        if not self._parse(x, memoryview(data)[:size], None):
            return
        self._begun = True
        self._left = length
        pump = self._handler.response_head(x, head, pool.facts[_READ_NS])
        if self._exchange is x:
            self._pump = pump
            if have > size:
                self._read_body(x, data[size:])
            if self._exchange is x:
                self._handler.response_flush(x)

    def _read_body(self, x: Exchange, data: bytes) -> None:
        have = len(data)
        end = -1
        pump: BodyPump = self._pump  # type: ignore[assignment]  # set with the head
        if x.held is not None:
            # A held head may leave with this read; the time before it was the upstream's.
            x.read_ns = monotonic_ns()
        if self._framed == _BY_LENGTH:
            if self._left > have:
                self._left -= have
            else:
                end = self._left
                if end < have:
                    data = data[:end]
        out = pump.feed(data)
        if self._framed == _BY_CHUNKS:
            end = pump.end
            if end < -1:
                self._broken(x, pump.fault, out)  # type: ignore[arg-type]  # such an end has one
                return
            if 0 <= end < have:
                data = data[:end]
        if self._parse(x, data, out):
            self._deliver(x, None, out, end, have)

    def _parse(self, x: Exchange, piece: Any, out: bytes | None) -> bool:
        try:
            self._feed(piece)
        except HttpParserUpgrade:
            self._feed = HttpResponseParser(self._framing).feed_data
        except HttpParserError as error:
            self._broken(x, str(error).lower(), out)
            return False
        return True

    def _deliver(self, x: Exchange, head: ResponseHead | None, out: bytes | None, end: int, have: int) -> None:
        """Report what this read brought. A complete response frees the connection first, so that it can serve again."""
        framing = self._framing
        if (end >= 0) != framing.complete:
            self._broken(x, "its framing is ambiguous", out)
        elif end >= 0:
            now_ns = monotonic_ns() if head is None else self._pool.facts[_READ_NS]
            self._exchange = None
            self._begun = False
            framing.complete = False
            if not self._reading:
                self.resume_reading()
            if self._keep and end == have and self._sent_all:
                self.idle_since_ns = now_ns
                self._pool.put(self)
            else:
                self._transport.abort()
            if head is not None:
                self._handler.response(x, head, now_ns)
            else:
                self._pump = None
                self._handler.response_end(x, out, now_ns)
        elif out is not None:
            self._handler.response_data(x, out)

    def _broken(self, x: Exchange, why: str, out: bytes | None) -> None:
        """Drop the connection and fail the attempt: the response is not HTTP. `out` came before the error: a client
        that has the head already gets it, else it is dropped, because another upstream may answer."""
        if out is not None and x.head_sent:
            self._handler.response_data(x, out)
            if self._exchange is not x:
                return
        self._exchange = None
        self._transport.abort()
        self._handler.lost(x, UpstreamProtocolError(f"upstream {x.target.label}: {why}"))
