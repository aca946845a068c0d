"""A client's connection: parses requests, hands each over as an exchange, writes the responses.

Two parsers check every head: llhttp, the parser of record, and the stricter native scan. A request that they read
differently is refused. One exchange is in flight at a time; pipelined bytes wait in a bounded buffer.
"""

from __future__ import annotations

from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from budgateway.errors import BadRequest, GatewayError, RequestTimeout, RequestTooLarge
from budgateway.exchange.exchange_cy import Exchange
from budgateway.native import ChunkScanner, Transport
from budgateway.server.address import client_of
from budgateway.server.framing_cy import RequestFraming
from budgateway.server.state_cy import OUTSIDE, TOLD, ServerState
from budgateway.server.unpacking import Unpacking
from budgateway.transport.sockets import reset

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from budgateway.native import RequestHead

MAX_HEAD_BYTES = 32 * 1024  # RELIABILITY 1; the native scan has the same limit
MAX_PIPELINED_BYTES = 64 * 1024  # above it, reading pauses: the client waits, and memory does not grow
LINGER_NS = 2_000_000_000  # time to drain a refused upload, or the client would see RST instead of the response
LINGER_BYTES = 16 * 1024 * 1024
FLUSH_NS = 60_000_000_000  # time for a client to read its last response; then it is dropped
BODY_IDLE_NS = 60_000_000_000  # nginx client_body_timeout
BODY_NS_PER_BYTE = 2_000_000  # a buffered body must come at 500 B/s at least (Apache mod_reqtimeout MinRate)
WRITE_HIGH_BYTES = 24 * 1024  # R13: a slow reader costs no more than 64 KiB

# Flags of the native scan, as C numbers (the .pxd declares them).
_KEEP_ALIVE = 1
_CHUNKED = 2
_EXPECT_CONTINUE = 4
_JSON = 32
_MULTIPART = 64
_ENCODED = 256
_H = 72

# Cells of the server state's `facts`: the fields of the last head scanned.
_SIZE, _FLAGS, _LENGTH, _DIALECT, _READ_NS = 0, 1, 2, 3, 4

# States of a connection.
_HEAD = 0  # waiting for, or reading, a head
_BODY = 1  # reading a body
_ANSWERING = 2  # the request is complete, its response is not
_LINGERING = 3  # answered early: the rest of the request is discarded
_CLOSED = 4


def protocols(server_state: ServerState) -> Callable[[], Any]:
    """Return a factory of protocols for accepted connections (asyncio.Protocol in all but its base class)."""
    return partial(ServerConnection, server_state)


class ServerConnection:
    """A client's connection, as an asyncio protocol. Reports to the server state's `ExchangeHandler`, which answers
    through `write`, `finish` and `abort`."""

    def __init__(self, server_state: ServerState) -> None:
        # process
        self._server_state = server_state
        self._handler = server_state.handler
        # connection
        self._transport: Any = None
        self._framing = RequestFraming()
        self._write: Any = None
        self._arm: Any = None
        self.place = OUTSIDE  # the place that it holds (server.state_cy)
        self.client = ""
        self._state = _HEAD
        self._deadline_ns = 0
        self._flush_ns = 0  # deadline for unsent bytes of the last response
        self._pending: bytearray | None = None  # an incomplete head, or pipelined bytes
        self._fed = 0  # bytes of the pending head that llhttp has seen
        self._reading = True
        self.writable = True
        self.fast_eligible = False
        # exchange
        self._exchange: Exchange | None = None
        self._parts: list[bytes] | None = None
        self._started = False
        self._left = 0  # body bytes still to come (content-length framing)
        self._length = 0  # content-length in the head
        self._chunks: ChunkScanner | None = None
        self._unpacking: Unpacking | None = None
        self._max_body = 0

    # ---------------------------------------------------------------- asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Register the connection, or refuse it when there are too many."""
        server_state = self._server_state
        self._transport = transport
        self._write = transport.write
        if not server_state.lets_in(self) and self.place != TOLD:
            self.abort()
            return
        server_state.connections.add(self)
        if self.place == TOLD:
            transport.write(server_state.full())
            self._linger()
            return
        self.client = client_of(transport)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._deadline_ns = monotonic_ns() + server_state.keepalive_ns
        if server_state.fastpath is not None and isinstance(self._transport, Transport):
            self._arm = self._transport.arm
            self._arm(self.client, server_state.networks.of(self.client))

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client."""
        try:
            if self._state == _HEAD:
                self._read_head(data)
            elif self._state == _BODY:
                self._read_body(data)
            elif self._state == _ANSWERING:
                self._hold(data)
            elif self._state == _LINGERING:
                self._left -= len(data)
                if self._left <= 0:
                    self.abort()
        except GatewayError as error:
            self.refuse(error)
        except Exception as error:  # a defect of ours must not leave the exchange in flight
            if self._exchange is None:
                raise
            self._handler.crashed(self._exchange, error)

    def eof_received(self) -> None:
        """Treat a client that stops sending as gone, because the two look alike. An exchange ends at once, and not when
        all unsent bytes are out; a finished response is still delivered."""
        if self._exchange is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """End the exchange if there is one; break the reference cycle with the parser."""
        self._server_state.leave(self)
        self._state = _CLOSED
        self._deadline_ns = 0
        x = self._exchange
        self._exchange = None
        self._framing.close()
        self._write = self._arm = None
        self._pending = self._parts = self._unpacking = None
        if not self._reading:
            self._server_state.departures.discard(self)
        if x is not None:
            self._handler.gone(x)

    def left(self) -> None:
        """Abort the exchange of a client that left while reading was paused; unread bytes before its FIN belonged to
        it."""
        if self._exchange is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """Report that the client reads slower than the upstream writes."""
        self.writable = False
        if self._exchange is not None:
            self._handler.writable(self._exchange, False)

    def resume_writing(self) -> None:
        """Report that the client caught up; between exchanges, go on with the next request."""
        self.writable = True
        if self._exchange is not None:
            self._handler.writable(self._exchange, True)
        elif self._state == _HEAD:
            self._go_on()

    # ---------------------------------------------------------------- reading

    def _read_head(self, data: bytes) -> None:
        pending = self._pending
        if pending is not None:
            seen = len(pending)
            pending += data
            if len(pending) <= MAX_HEAD_BYTES and pending.find(b"\r\n\r\n", seen - 3 if seen > 3 else 0) < 0:
                # llhttp is fed every piece, so that garbage is refused at once and not at the deadline.
                self._fed = len(pending)
                self._parse_early(data)
                return
            data = bytes(pending)
            self._pending = None
        try:
            head = self._server_state.read_head(data)
        except BadRequest as error:
            self._pending = bytearray(data)
            self.refuse(error)
            return
        if head is None:
            self._deadline_ns = monotonic_ns() + self._server_state.head_timeout_ns
            self._pending = bytearray(data)
            self._fed = len(data)
            self._parse_early(data)
            return
        self._begin(head, data)

    def _parse_early(self, piece: bytes) -> None:
        """Feed llhttp a piece of a head; it must not find an end that the native scan does not see."""
        if self._parse(piece) and self._framing.head_done:
            self.refuse(BadRequest("the request is ambiguous"))

    def _begin(self, head: RequestHead, data: bytes) -> None:  # noqa: C901 - one state, top to bottom
        """Handle a complete head: `data` starts with it, and may go on with its body and with pipelined requests."""
        server_state = self._server_state
        flags = server_state.facts[_FLAGS]
        size = server_state.facts[_SIZE]
        length = server_state.facts[_LENGTH]
        have = len(data)
        fed = self._fed
        self._fed = 0
        self._started = False
        x = self._exchange_of(head, server_state.facts[_READ_NS])
        # While draining, the response says that it is the last one.
        x.flags = flags & ~_KEEP_ALIVE if server_state.draining else flags
        x.dialect = server_state.facts[_DIALECT]
        x.is_head = data[0] == _H and head.method == "HEAD"
        self._max_body = server_state.max_body_bytes
        self._length = length
        self._exchange = x
        self._state = _BODY
        if flags & (_MULTIPART | _ENCODED) and (flags & _CHUNKED or length > 0):
            self._unpacking = Unpacking.of(x, self._max_body)
        # The end of this message in `data`; -1: it is not here yet.
        if flags & _CHUNKED:
            self._chunks = ChunkScanner()
            end = self._chunks.feed(data, size)
        elif length > 0:
            if length > self._max_body:
                raise RequestTooLarge(f"the body of {length} bytes exceeds the limit of {self._max_body}")
            end = size + length
            if end > have:
                self._left = end - have
                end = -1
        else:
            end = size
        self._deadline_ns = 0
        if fed:
            # llhttp was fed the beginning when it came.
            piece: Any = memoryview(data)[fed:] if end < 0 else memoryview(data)[fed:end]
        elif end < 0 or end == have:
            piece = data
        else:
            piece = memoryview(data)[:end]
        if not self._parse(piece):
            return
        framing = self._framing
        if not framing.head_done or (end >= 0) != framing.complete:
            raise BadRequest("the request is ambiguous")
        if self._chunks is not None:
            self._took(x, self._chunks.take())
        elif length > 0:
            raw = data
            self._took(x, raw[size : have if end < 0 else end])
        if end >= 0:
            self._request_done(x)
            if end < have:
                self._hold(data[end:])
        else:
            self._deadline_ns = monotonic_ns() + BODY_IDLE_NS
            self._body_grew(x)
            if flags & _EXPECT_CONTINUE and self._exchange is x and not x.body_bytes and not x.head_sent:
                # Only when the request was not refused: else its body need not be sent (RFC 9110 10.1.1).
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _exchange_of(self, head: RequestHead, started_ns: int) -> Exchange:
        """Return the exchange that a head begins, with its client's address."""
        server_state = self._server_state
        client = self.client if server_state.proxies is None else server_state.proxies.client(self.client, head)
        x = Exchange(head, self, client, started_ns)
        if ":" in client:
            x.network = x.limit_key = server_state.networks.of(client)
        return x

    def _read_body(self, data: bytes) -> None:
        x = self._exchange
        if x is None:
            return
        have = len(data)
        if self._chunks is not None:
            end = self._chunks.feed(data)
        elif self._left > have:
            self._left -= have
            end = -1
        else:
            end = self._left
            self._left = 0
        piece = data if end < 0 or end == have else data[:end]
        if not self._parse(piece):
            return
        if (end >= 0) != self._framing.complete:
            raise BadRequest("the request is ambiguous")
        self._took(x, piece if self._chunks is None else self._chunks.take())
        if self._exchange is not x:
            return  # the handler ended it meanwhile
        if end < 0:
            self._deadline_ns = self._server_state.now_ns + BODY_IDLE_NS
            if not self._started:
                latest_ns = x.started_ns + BODY_IDLE_NS + x.body_bytes * BODY_NS_PER_BYTE
                if latest_ns < self._deadline_ns:
                    self._deadline_ns = latest_ns
            self._body_grew(x)
        else:
            x.ready_ns = monotonic_ns()
            self._request_done(x)
            if end < have:
                self._hold(data[end:])

    def _took(self, x: Exchange, data: bytes) -> None:
        """Pass on or buffer a piece of body, without its framing."""
        if self._unpacking is not None:
            data = self._unpacking.feed(data)
        if not data:
            return
        x.body_bytes += len(data)
        if self._started:
            if x.body_bytes <= self._max_body:
                self._handler.body(x, data)
        elif x.body is None:
            x.body = data  # most bodies come in one piece, and need no list
        elif self._parts is None:
            self._parts = [x.body, data]
        else:
            self._parts.append(data)

    def _body_grew(self, x: Exchange) -> None:
        """Handle an incomplete body: JSON waits until it is complete, because routing reads it; the rest streams
        upstream."""
        if x.body_bytes > self._max_body:
            raise self._too_large()
        if not self._started and not x.flags & _JSON:
            if self._unpacking is not None and self._unpacking.holds(x.body_bytes):
                return
            self._started = True
            if self._parts is not None:
                x.body = b"".join(self._parts)
                self._parts = None
            x.ready_ns = monotonic_ns()
            self._handler.start(x)

    def _request_done(self, x: Exchange) -> None:
        self._state = _ANSWERING
        self._deadline_ns = 0
        self._chunks = None
        self._framing.head_done = self._framing.complete = False
        if x.body_bytes > self._max_body:
            raise self._too_large()
        if self._unpacking is not None:
            self._unpacking.finish()
            self._unpacking = None
        x.body_done = True
        if self._started:
            self._handler.body_end(x)
            return
        if self._parts is not None:
            x.body = b"".join(self._parts)
            self._parts = None
        self._started = True
        self._handler.start(x)

    def _parse(self, piece: Any) -> bool:
        """Feed llhttp; return False when it found the request malformed, and it was refused."""
        x = self._exchange
        wrong = self._framing.read(piece, self._chunks is not None, 0 if x is None else self._length)
        if wrong is not None:
            self.refuse(BadRequest(f"malformed request: {wrong}"))
        return wrong is None

    def _hold(self, data: bytes) -> None:
        """Keep pipelined bytes for the next exchange."""
        if self._state == _HEAD:  # the exchange ended while its own bytes were read
            self._pending = bytearray(data)
            if self.writable:
                self._go_on()
            return
        if self._state != _ANSWERING:
            return
        if self._pending is None:
            self._pending = bytearray(data)
        else:
            self._pending += data
        if self._is_full():
            self.pause_reading()

    # ---------------------------------------------------------------- for the handler

    def write(self, data: bytes) -> None:
        """Send bytes of the response."""
        self._write(data)

    def limit_body(self, x: Exchange, limit: int) -> None:
        """Set the body limit, once the route is known; RequestTooLarge when the body exceeds it already."""
        self._max_body = limit
        if x.body_bytes > limit or x.head.content_length > limit:
            raise self._too_large()

    def pause_reading(self) -> None:
        """Stop reading: the upstream takes a streamed body slower than the client sends it."""
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
            self._look_out()

    def resume_reading(self) -> None:
        """Undo pause_reading."""
        if not self._reading and self._state != _CLOSED:
            self._server_state.departures.discard(self)
            self._reading = True
            self._transport.resume_reading()

    def finish(self, keep_alive: bool) -> None:
        """End the exchange: its response is written. Without keep-alive, or with request bytes still to come, the
        connection ends too."""
        self._exchange = None
        if self._state == _CLOSED:
            return
        if self._state != _ANSWERING:
            self._linger()
        elif not keep_alive:
            if self._pending is not None:
                # Closing with unread bytes would reset the connection and lose the response.
                self._linger()
                return
            self.close()
        else:
            self._state = _HEAD
            self._deadline_ns = self._server_state.now_ns + self._server_state.keepalive_ns
            # Valid for this exchange only: a later one may have pipelined requests behind it.
            eligible = self.fast_eligible
            self.fast_eligible = False
            if eligible and self._arm is not None and self._pending is None and self.writable:
                self._arm(self.client, self._server_state.networks.of(self.client))
            if self.writable:
                self._go_on()
            else:
                # The client must read what was written first, or every further response would wait in our memory.
                self.pause_reading()

    def close(self) -> None:
        """Close the connection behind its last response, which was written."""
        self._state = _CLOSED
        self._deadline_ns = self._server_state.now_ns + FLUSH_NS
        self._transport.close()

    def adopt(self, head: RequestHead, data: bytes, started_ns: int) -> Exchange:
        """Continue a request from the fast path: `data` is all of it, and nothing of its response was written."""
        x = self._exchange_of(head, started_ns)
        x.flags = head.flags
        x.dialect = self._server_state.dialect_of(head)
        self._length = head.content_length
        x.body = data[head.size :]
        x.body_bytes = len(x.body)
        x.body_done = True
        self._exchange = x
        self._started = True
        self._state = _ANSWERING
        self._deadline_ns = 0
        return x

    def surrender(self) -> tuple[Any, bytes, ServerState]:
        """Hand over the transport for an upgrade, the bytes that followed the request, and the server state."""
        transport, early = self._transport, bytes(self._pending or b"")
        self._exchange = None
        self.connection_lost(None)
        return transport, early, self._server_state

    def abort(self) -> None:
        """Drop the connection at once, and with it the exchange in flight, if any."""
        x = self._exchange
        self._exchange = None
        if self._state != _CLOSED:
            self._state = _CLOSED
            self._transport.abort()
        if x is not None:
            self._handler.gone(x)

    def reset(self) -> None:
        """Drop the connection with RST, because FIN would say that the response is complete."""
        if self._state != _CLOSED:
            reset(self._transport)
        self.abort()

    def break_off(self, framed: bool) -> None:
        """End a response that cannot be completed. With framing the client sees that when the unsent bytes are out;
        without, only a reset shows it."""
        if not framed:
            self.reset()
            return
        self._exchange = None
        if self._state != _CLOSED:
            self._state = _CLOSED
            self._deadline_ns = monotonic_ns() + LINGER_NS
            self._flush_ns = self._deadline_ns + FLUSH_NS
            self._transport.close()

    def refuse(self, error: GatewayError) -> None:
        """Refuse a request: through its exchange if it has one, else with an error response and a close."""
        x = self._exchange
        if x is not None:
            self._fail(x, error)
            return
        data = bytes(self._pending or b"")
        self._handler.refuse_malformed(self, error, data, self._server_state.dialect_in(data))
        self._linger()

    def sweep(self, now_ns: int) -> None:
        """Check the deadlines of the exchange in flight and of the connection."""
        x = self._exchange
        if x is not None and self._started:
            self._handler.sweep(x, now_ns)
        if not self._deadline_ns or now_ns < self._deadline_ns:
            return
        if self._state == _HEAD and self._pending is not None:
            self.refuse(RequestTimeout("the request head did not arrive in time"))
        elif self._state == _BODY and x is not None:
            if self._reading:
                self._fail(x, RequestTimeout("the request body did not arrive in time"))
            else:
                # Reading is paused by us: the upstream's deadline counts.
                self._deadline_ns = now_ns + BODY_IDLE_NS
        elif self._state >= _LINGERING and now_ns < self._flush_ns and self._transport.get_write_buffer_size():
            # A slow reader gets the time that every last response has.
            self._deadline_ns = now_ns + LINGER_NS
        elif self._state >= _LINGERING:
            self._deadline_ns = 0
            self._state = _CLOSED
            self._transport.abort()
        elif self._arm is not None and now_ns < self._transport.last_fast_ns + self._server_state.keepalive_ns:
            # Requests that the fast path served count as activity.
            self._deadline_ns = self._transport.last_fast_ns + self._server_state.keepalive_ns
        elif self._state == _HEAD:
            self._state = _CLOSED
            self._transport.close()

    def hasten(self, deadline_ns: int) -> None:
        """Close at `deadline_ns` unless an exchange, or part of a request, is here by then."""
        if self._state == _HEAD and self._pending is None:
            self._deadline_ns = deadline_ns

    def end(self, error: GatewayError) -> None:
        """End the exchange in flight with an error, as far as that can still be sent; else close an idle connection."""
        if self._exchange is not None:
            self._fail(self._exchange, error)
        elif self._state == _HEAD:
            self._state = _CLOSED
            self._deadline_ns = self._server_state.now_ns + LINGER_NS
            self._transport.close()

    # ---------------------------------------------------------------- endings

    def _go_on(self) -> None:
        """Go on with the next request: a pipelined one, else from the client."""
        if self._pending is not None and not self._fed:
            # In a later step of the loop: a long pipeline of quick responses would recurse.
            self._server_state.call_soon(self._next)
        elif not self._reading:
            self.resume_reading()

    def _next(self) -> None:
        """Parse the pipelined bytes."""
        if self._state != _HEAD or self._pending is None or self._fed:
            return
        data = bytes(self._pending)
        self._pending = None
        self.data_received(data)
        if not self._reading:
            if self._is_full():
                self._look_out()
            else:
                self.resume_reading()

    def _look_out(self) -> None:
        """Have `left` called when the client leaves while reading is paused, also if it left before this exchange."""
        transport = self._transport
        if isinstance(transport, Transport):
            transport.pause_reading()
        else:
            self._server_state.departures.add(self, transport.get_extra_info("socket"))

    def _is_full(self) -> bool:
        return self._pending is not None and len(self._pending) > MAX_PIPELINED_BYTES

    def _fail(self, x: Exchange, error: GatewayError) -> None:
        """End an exchange whose request went wrong before it was complete; the handler answers as for any other
        failure."""
        self._started = True
        self._unpacking = None
        self._handler.fail(x, error)

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"the body exceeds the limit of {self._max_body} bytes")

    def _linger(self) -> None:
        """Close, but read on for a moment: closing with unread bytes resets the connection and eats the answer."""
        if self._state == _CLOSED:
            return
        self._state = _LINGERING
        self._pending = None
        self._left = LINGER_BYTES
        self._deadline_ns = monotonic_ns() + LINGER_NS
        self._flush_ns = self._deadline_ns + FLUSH_NS
        if not self._reading:
            self.resume_reading()
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._state = _CLOSED
                self._transport.close()
        except OSError:  # the client closed first
            self.abort()
