"""An upgraded exchange: forwards WebSocket frames unchanged between two transports, until one close ends both.

```
client --- downstream End --FrameScanner--> upstream End --- upstream
                          <--FrameScanner--
```
Only an incomplete frame header is buffered. A direction that is between two frames can be sent a close frame of ours;
one that is inside a frame can only be cut off, which its reader reports as 1006.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from budgateway.errors import Draining, GatewayError
from budgateway.exchange.exchange_cy import CLIENT_GONE, COMPLETE, TRUNCATED, Exchange
from budgateway.native import VERDICT_FAILURE, VERDICT_NEUTRAL, VERDICT_SUCCESS, FrameScanner
from budgateway.server.state_cy import ServerState
from budgateway.wire.websocket import close_frame

if TYPE_CHECKING:
    import asyncio

    from budgateway.exchange.handler_cy import ExchangeHandler
    from budgateway.records import WebSocket

WRITE_HIGH_BYTES = 64 * 1024  # above it, the other end is not read
CLOSE_NS = 5_000_000_000  # wait for the peer's close frame (RFC 6455 7.1.1); `websockets` waits 10 s, `ws` 30 s
FLUSH_NS = 60_000_000_000  # for a slow reader to read what was written before
LINGER_NS = 2_000_000_000  # for our close frame to arrive: closing with unread bytes would reset it away
LINGER_BYTES = 64 * 1024 * 1024  # discarded from a peer that goes on sending meanwhile

# RFC 6455 7.4.1.
_GOING_AWAY = 1001
_INTERNAL = 1011


class SocketCounts:
    """Counts of one worker's WebSockets: how many are open, and what they have forwarded since it began."""

    __slots__ = ("bytes_in", "bytes_out", "frames_in", "frames_out", "open")

    def __init__(self) -> None:
        self.open = 0
        self.frames_in = 0
        self.frames_out = 0
        self.bytes_in = 0
        self.bytes_out = 0


class Tunnel:
    """Owns both transports from the upstream's 101 on, and the end of the exchange. Replaces the client's connection
    among the server state's connections."""

    __slots__ = (
        "_counts",
        "_deadline_ns",
        "_down",
        "_flush_ns",
        "_handler",
        "_idle_at_ns",
        "_idle_ns",
        "_idle_s",
        "_over",
        "_server_state",
        "_up",
        "_x",
        "active",
        "place",
    )  # fmt: skip

    def __init__(
        self,
        handler: ExchangeHandler,
        x: Exchange,
        server_state: ServerState,
        limits: WebSocket,
        deflate: bool,
        counts: Any,
        place: int = 0,
    ) -> None:
        """`place` is the place that the client's connection holds (server.state_cy), given back at the end."""
        self._handler = handler
        self._x = x
        self._server_state = server_state
        self.place = place
        self._idle_ns = int(limits.idle_s * 1e9)
        self._idle_s = limits.idle_s
        self._counts = counts
        self._deadline_ns = 0  # 0 while frames pass; then the deadline for both ends to close
        self._flush_ns = 0
        self._idle_at_ns = 0
        self.active = True
        self._over = False  # the exchange has ended
        self._down = End(self, True, FrameScanner(True, deflate, limits.max_message_bytes))
        self._up = End(self, False, FrameScanner(False, deflate, limits.max_message_bytes))
        self._down.other = self._up
        self._up.other = self._down

    def open(self, client: Any, upstream: Any, head: bytes, rest: bytes, early: bytes) -> None:
        """Take over both transports. `head` is the client's 101; `rest` followed the upstream's 101, and `early` the
        client's request: it was held back until now."""
        self._counts.open += 1
        self._server_state.connections.add(self)
        self._down.take(client)
        self._up.take(upstream)
        client.write(head)
        if rest:
            self._up.data_received(rest)
        if early:
            self._down.data_received(early)

    # ---------------------------------------------------------------- reports from the ends

    def closed(self, end: End) -> None:
        """Handle a close frame from this end's peer: the second one completes the closing handshake."""
        if end.other.said_close:
            self._part(COMPLETE, VERDICT_SUCCESS, "")
            self._down.leave()
            self._up.leave()
        elif not self._deadline_ns:
            self._deadline_ns = monotonic_ns() + CLOSE_NS
            self._flush_ns = self._deadline_ns + FLUSH_NS

    def violated(self, end: End, code: int, why: str) -> None:
        """End both sides after this end's peer broke the protocol: each gets a close frame with its own code."""
        if end.is_client:
            self._part(TRUNCATED, VERDICT_NEUTRAL, "request_too_large" if code == 1009 else "bad_request")
            self._up.say_close(_GOING_AWAY, "the client violated the protocol")
        else:
            self._part(TRUNCATED, VERDICT_FAILURE, "upstream_protocol")
            self._down.say_close(_INTERNAL, f"the upstream violated the protocol: {why}")
        end.say_close(code, why)

    def lost(self, end: End) -> None:
        """Handle the loss of this end's connection."""
        other = end.other
        if end.said_close or end.told_close:
            # The peer did not wait for the rest of the closing handshake.
            self._part(COMPLETE, VERDICT_SUCCESS, "")
            other.leave()
        elif end.is_client:
            self._part(CLIENT_GONE, VERDICT_NEUTRAL, "")
            other.say_close(_GOING_AWAY, "the client is gone")
        else:
            self._part(TRUNCATED, VERDICT_FAILURE, "upstream_protocol")
            other.say_close(_INTERNAL, "the upstream closed the connection")
        if self._down.is_gone() and self._up.is_gone():
            self._server_state.leave(self)
            # No more reports: without these reference cycles everything is freed at once.
            self._down.part()
            self._up.part()

    # ---------------------------------------------------------------- for the server state

    def sweep(self, now_ns: int) -> None:
        """Check the deadlines, four times a second."""
        self._count()
        if self._deadline_ns:
            if now_ns > self._deadline_ns:
                self._expire(now_ns)
        elif self._down.is_stuck(now_ns, self._idle_ns):
            self._down.drop()
        elif self._up.is_stuck(now_ns, self._idle_ns):
            self._up.drop()
        elif self.active:
            self.active = False
            self._idle_at_ns = now_ns + self._idle_ns
        elif now_ns > self._idle_at_ns:
            self._leave_both(_GOING_AWAY, f"idle for {self._idle_s:g} s", "idle_timeout")

    def hasten(self, deadline_ns: int) -> None:
        """Do nothing when a drain begins: a WebSocket is an exchange in flight, and has the drain's whole time."""

    def end(self, error: GatewayError) -> None:
        """End the WebSocket now, with close frames that give the reason."""
        code = _GOING_AWAY if isinstance(error, Draining) else _INTERNAL
        self._leave_both(code, str(error), error.code)

    def abort(self) -> None:
        """Cut both ends off."""
        self._part(TRUNCATED, VERDICT_NEUTRAL, Draining.code)
        self._down.drop()
        self._up.drop()

    # ---------------------------------------------------------------- endings

    def _expire(self, now_ns: int) -> None:
        """Handle the deadline of a closing handshake. A peer that reads slowly or still sends gets more time."""
        if now_ns < self._flush_ns and (self._down.needs_time() or self._up.needs_time()):
            self._deadline_ns = now_ns + LINGER_NS
            return
        is_told = not self._over and (self._down.told_close or self._up.told_close)
        self._part(TRUNCATED, VERDICT_NEUTRAL, "close_timeout")
        if is_told:
            # A peer that did not answer our close frame may not have read it yet.
            self._down.leave()
            self._up.leave()
            return
        self._down.drop()
        self._up.drop()

    def _leave_both(self, code: int, why: str, error: str) -> None:
        self._part(TRUNCATED, VERDICT_NEUTRAL, error)
        self._down.say_close(code, why)
        self._up.say_close(code, why)

    def _part(self, outcome: int, verdict: int, error: str) -> None:
        """End the exchange, once; both ends get LINGER_NS to close."""
        if self._over:
            return
        self._over = True
        self._count()
        self._counts.open -= 1
        now_ns = monotonic_ns()
        self._deadline_ns = now_ns + LINGER_NS
        self._flush_ns = now_ns + FLUSH_NS
        x = self._x
        x.body_bytes = self._down.passed
        x.bytes_out = self._up.passed
        x.error = error
        self._handler.socket_ended(x, outcome, verdict, now_ns)

    def _count(self) -> None:
        counts = self._counts
        down = self._down
        up = self._up
        counts.bytes_in += down.uncounted
        counts.bytes_out += up.uncounted
        counts.frames_in += down.new_frames()
        counts.frames_out += up.new_frames()
        down.uncounted = 0
        up.uncounted = 0


class End:
    """One end: an asyncio protocol that forwards what its peer sends, and writes to that peer."""

    __slots__ = (
        "_deaf", "_discarded", "_ending", "_feed", "_frames", "_heard", "_scanner", "_slow_since_ns", "_transport",
        "_tunnel", "_write", "is_client", "other", "passed", "said_close", "told_close", "uncounted",
    )  # fmt: skip

    def __init__(self, tunnel: Tunnel, is_client: bool, scanner: FrameScanner) -> None:
        self._tunnel: Any = tunnel
        self._scanner = scanner
        self._feed = scanner.feed
        self._transport: Any = None
        self._write: Any = None
        self._slow_since_ns = 0
        self.is_client = is_client
        self.other: Any = None
        self.said_close = False  # its peer has sent a close frame
        self.told_close = False  # its peer was sent a close frame
        self._ending = False  # further bytes from its peer are discarded
        self._heard = False  # its peer has sent something since `needs_time` was last called
        self._discarded = 0
        self._deaf = False  # its peer has sent a close frame and does not read: nothing is written to it
        self.passed = 0
        self.uncounted = 0
        self._frames = 0

    def take(self, transport: Any) -> None:
        """Take over a transport."""
        self._transport = transport
        self._write = transport.write
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        transport.resume_reading()

    # ---------------------------------------------------------------- asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Do nothing: never called, because the connection existed before."""

    def data_received(self, data: bytes) -> None:
        """Forward frames from the peer, in any pieces."""
        if self._ending:
            self._discard(data)
            return
        out = self._feed(data)
        tunnel = self._tunnel
        tunnel.active = True
        other = self.other
        if out is not None:
            size = len(out)
            self.passed += size
            self.uncounted += size
            if other._write is not None and not other._deaf:
                other._write(out)
        code = self._scanner.ended
        if code:
            error = self._scanner.error
            if error is not None:
                tunnel.violated(self, code, error)
            elif not self.said_close:
                self.said_close = True
                other.told_close = True
                if self._slow_since_ns:
                    self._turn_deaf()
                tunnel.closed(self)

    def _discard(self, data: bytes) -> None:
        """Discard bytes from the peer. Its close frame ends that; after a violation none can be found."""
        self._heard = True
        self._discarded += len(data)
        if self._is_at_fault():
            return
        self._feed(data)
        if self._scanner.ended and not self._is_at_fault() and self._transport is not None:
            self._transport.close()

    def _is_at_fault(self) -> bool:
        return self._scanner.error is not None

    def _turn_deaf(self) -> None:
        """Stop writing to a peer that has sent a close frame and does not read. The other peer is read again, because
        it has to finish what it sends before it reads the close frame."""
        self._deaf = True
        self.other.hold(False)

    def eof_received(self) -> bool:
        """Handle the peer's EOF. After its close frame it may still wait for ours; before it, the peer is gone."""
        if self.said_close and not self.told_close and self._transport.can_write_eof():
            return True
        if not self._ending:
            self._transport.abort()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Report that the peer is gone."""
        self._transport = None
        self._write = None
        self._tunnel.lost(self)

    def pause_writing(self) -> None:
        """Stop reading the other peer, because this one reads more slowly."""
        self._slow_since_ns = monotonic_ns()
        if self.said_close:
            self._turn_deaf()
        else:
            self.other.hold(True)

    def resume_writing(self) -> None:
        """Read the other peer again."""
        self._slow_since_ns = 0
        self.other.hold(False)

    # ---------------------------------------------------------------- for the tunnel

    def hold(self, back: bool) -> None:
        """Stop reading the peer, or resume."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if back:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def say_close(self, code: int, reason: str) -> None:
        """Send the peer a close frame, if that is still possible, and let the connection end."""
        if self._transport is None:
            return
        if not self.told_close:
            if self._deaf or not self.other._scanner.between_frames:
                # A frame cannot be sent inside a frame.
                self._transport.abort()
                return
            self.told_close = True
            self._write(close_frame(code, reason, masked=not self.is_client))
        self.leave()

    def leave(self) -> None:
        """Close when the peer has nothing left to send: its close frame has come, or comes within the deadline."""
        self._ending = True
        transport = self._transport
        if transport is None:
            return
        if self._deaf:
            transport.abort()
        elif self.said_close or not self.told_close:
            transport.close()
        else:
            # The peer may still be sending. Closing with unread bytes would reset the close frame away.
            self.hold(False)
            if self._is_at_fault() and transport.can_write_eof():
                # No close frame can be found in what it sends, so EOF must tell it that nothing follows.
                transport.write_eof()

    def part(self) -> None:
        """Drop the references to the tunnel and the other end."""
        self._tunnel = None
        self.other = None

    def drop(self) -> None:
        """Cut the peer off, unless it has sent a close frame."""
        if self._transport is not None:
            if self.said_close:
                self._transport.close()
            else:
                self._transport.abort()

    def needs_time(self) -> bool:
        """Return whether bytes are unsent, or the peer has gone on sending since the last call."""
        heard, self._heard = self._heard, False
        if self._transport is None:
            return False
        if self._ending and heard and self._discarded < LINGER_BYTES:
            return True
        return not self._deaf and self._transport.get_write_buffer_size() > 0

    def is_gone(self) -> bool:
        """Return whether the connection has ended."""
        return self._transport is None

    def is_stuck(self, now_ns: int, timeout_ns: int) -> bool:
        """Return whether the peer has read nothing for `timeout_ns`."""
        return self._slow_since_ns != 0 and now_ns - self._slow_since_ns > timeout_ns

    def new_frames(self) -> int:
        """Return the number of frames begun since the last call."""
        frames = self._scanner.frames
        new: int = frames - self._frames
        self._frames = frames
        return new
