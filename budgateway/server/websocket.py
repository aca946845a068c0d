"""An upgraded exchange: frames both ways between two transports, as they came, until one close ends both.

```
client --- downstream End --FrameScanner--> upstream End --- upstream
                          <--FrameScanner--
```
Nothing is kept but a header in pieces. A direction that stands between two frames can be given a close frame of ours; one
that stands inside a frame can only be cut off, which its reader knows as 1006.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from budgateway.errors import Draining, GatewayError
from budgateway.exchange_cy import CLIENT_GONE, COMPLETE, TRUNCATED, Carrier, Exchange
from budgateway.native import VERDICT_FAILURE, VERDICT_NEUTRAL, VERDICT_SUCCESS, FrameScanner
from budgateway.server.door_cy import Door
from budgateway.wire.upgrade import close_frame

if TYPE_CHECKING:
    import asyncio

    from budgateway.records import WebSocket

WRITE_HIGH_BYTES = 64 * 1024  # then whoever writes to it is not read
CLOSE_NS = 5_000_000_000  # the wait for the other's close frame (RFC 6455 7.1.1); `websockets` waits 10 s, `ws` 30 s
FLUSH_NS = 60_000_000_000  # for what was written before to be read by a slow reader
LINGER_NS = 2_000_000_000  # for a close frame of ours to arrive: closing over unread bytes would reset it away
LINGER_BYTES = 64 * 1024 * 1024  # of a peer that goes on sending meanwhile, thrown away

# RFC 6455 7.4.1.
_GOING_AWAY = 1001
_INTERNAL = 1011


class SocketCounts:
    """What one worker's sockets have passed on since it began, and how many are open."""

    __slots__ = ("bytes_in", "bytes_out", "frames_in", "frames_out", "open")

    def __init__(self) -> None:
        self.open = 0
        self.frames_in = 0
        self.frames_out = 0
        self.bytes_in = 0
        self.bytes_out = 0


class Tunnel:
    """Owns both transports from the upstream's 101 on, and the exchange's end. Stands among the door's connections in
    place of the client's own."""

    __slots__ = (
        "_carrier", "_counts", "_deadline_ns", "_door", "_down", "_flush_ns", "_idle_at_ns", "_idle_ns", "_idle_s",
        "_over", "_up", "_x", "active", "place",
    )  # fmt: skip

    def __init__(
        self, carrier: Carrier, x: Exchange, door: Door, limits: WebSocket, deflate: bool, counts: Any, place: int = 0
    ) -> None:
        """`place` is what the client's connection holds of the door, given back with its end."""
        self._carrier = carrier
        self._x = x
        self._door = door
        self.place = place
        self._idle_ns = int(limits.idle_s * 1e9)
        self._idle_s = limits.idle_s
        self._counts = counts
        self._deadline_ns = 0  # 0 while frames pass; then until when the ends may take to part
        self._flush_ns = 0
        self._idle_at_ns = 0
        self.active = True
        self._over = False  # the exchange has ended
        self._down = End(self, True, FrameScanner(True, deflate, limits.max_message_bytes))
        self._up = End(self, False, FrameScanner(False, deflate, limits.max_message_bytes))
        self._down.other = self._up
        self._up.other = self._down

    def open(self, client: Any, upstream: Any, head: bytes, rest: bytes, early: bytes) -> None:
        """Take both transports over. `head` is the client's 101; `rest` followed the upstream's, and `early` the client's
        request: it goes no further than here before that 101."""
        self._counts.open += 1
        self._door.connections.add(self)
        self._down.take(client)
        self._up.take(upstream)
        client.write(head)
        if rest:
            self._up.data_received(rest)
        if early:
            self._down.data_received(early)

    # ---------------------------------------------------------------- what the ends report

    def closed(self, end: End) -> None:
        """A close frame of this end's peer has passed: the handshake is over when it was the second."""
        if end.other.said_close:
            self._part(COMPLETE, VERDICT_SUCCESS, "")
            self._down.leave()
            self._up.leave()
        elif not self._deadline_ns:
            self._deadline_ns = monotonic_ns() + CLOSE_NS
            self._flush_ns = self._deadline_ns + FLUSH_NS

    def violated(self, end: End, code: int, why: str) -> None:
        """This end's peer broke the protocol: it is told so, the other that it is over."""
        if end.is_client:
            self._part(TRUNCATED, VERDICT_NEUTRAL, "request_too_large" if code == 1009 else "bad_request")
            self._up.say_close(_GOING_AWAY, "the client broke the protocol")
        else:
            self._part(TRUNCATED, VERDICT_FAILURE, "upstream_protocol")
            self._down.say_close(_INTERNAL, f"the upstream broke the protocol: {why}")
        end.say_close(code, why)

    def lost(self, end: End) -> None:
        """This end's connection is gone."""
        other = end.other
        if end.said_close or end.told_close:
            # It went without waiting for the rest of the handshake.
            self._part(COMPLETE, VERDICT_SUCCESS, "")
            other.leave()
        elif end.is_client:
            self._part(CLIENT_GONE, VERDICT_NEUTRAL, "")
            other.say_close(_GOING_AWAY, "the client is gone")
        else:
            self._part(TRUNCATED, VERDICT_FAILURE, "upstream_protocol")
            other.say_close(_INTERNAL, "the upstream closed the connection")
        if self._down.is_gone() and self._up.is_gone():
            self._door.leave(self)
            # Nothing is reported any more: without these circles all of it goes at once.
            self._down.part()
            self._up.part()

    # ---------------------------------------------------------------- for the door

    def sweep(self, now_ns: int) -> None:
        """Look at the deadlines, four times a second."""
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
        """A drain begins: a socket is an exchange in flight, and has the drain's whole time."""

    def end(self, error: GatewayError) -> None:
        """End it now, and say why."""
        code = _GOING_AWAY if isinstance(error, Draining) else _INTERNAL
        self._leave_both(code, str(error), error.code)

    def abort(self) -> None:
        """Cut both off."""
        self._part(TRUNCATED, VERDICT_NEUTRAL, Draining.code)
        self._down.drop()
        self._up.drop()

    # ---------------------------------------------------------------- endings

    def _expire(self, now_ns: int) -> None:
        """A close frame was not answered, or an end did not close, in time. Who reads slowly, or still sends, gets more."""
        if now_ns < self._flush_ns and (self._down.needs_time() or self._up.needs_time()):
            self._deadline_ns = now_ns + LINGER_NS
            return
        is_told = not self._over and (self._down.told_close or self._up.told_close)
        self._part(TRUNCATED, VERDICT_NEUTRAL, "close_timeout")
        if is_told:
            # Whoever was told, and did not answer, may not have come to reading it.
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
        """The exchange ends, once; the ends get a moment to hear of it."""
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
        self._carrier.socket_ended(x, outcome, verdict, now_ns)

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
    """One of the two: an asyncio protocol that passes on what its peer sends, and by which its peer is told."""

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
        self.said_close = False  # its peer's close frame has passed
        self.told_close = False  # its peer was sent one
        self._ending = False  # what its peer still says goes nowhere
        self._heard = False  # it has said something since that was last looked at
        self._discarded = 0
        self._deaf = False  # its peer has said that it is over, and reads no more: nothing is written to it
        self.passed = 0
        self.uncounted = 0
        self._frames = 0

    def take(self, transport: Any) -> None:
        """This transport is ours now."""
        self._transport = transport
        self._write = transport.write
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        transport.resume_reading()

    # ---------------------------------------------------------------- asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Never called: it was made long ago."""

    def data_received(self, data: bytes) -> None:
        """Frames of the peer, in any pieces."""
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
        """Throw away what the peer still says. Its close frame ends that; after a violation none can be found."""
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
        """The peer has closed and does not read: for its sake the other one is not held back, which has to get to the end
        of what it sends before it reads that it is over."""
        self._deaf = True
        self.other.hold(False)

    def eof_received(self) -> bool:
        """The peer sends no more. After its close frame it may still wait for ours; before it, it is gone."""
        if self.said_close and not self.told_close and self._transport.can_write_eof():
            return True
        if not self._ending:
            self._transport.abort()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The peer is gone."""
        self._transport = None
        self._write = None
        self._tunnel.lost(self)

    def pause_writing(self) -> None:
        """The peer reads more slowly than the other writes."""
        self._slow_since_ns = monotonic_ns()
        if self.said_close:
            self._turn_deaf()
        else:
            self.other.hold(True)

    def resume_writing(self) -> None:
        """It caught up."""
        self._slow_since_ns = 0
        self.other.hold(False)

    # ---------------------------------------------------------------- for the tunnel

    def hold(self, back: bool) -> None:
        """Stop reading the peer, or go on."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if back:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def say_close(self, code: int, reason: str) -> None:
        """Tell the peer that it is over, if that can still be told, and let the connection end."""
        if self._transport is None:
            return
        if not self.told_close:
            if self._deaf or not self.other._scanner.between_frames:
                # There is no place for a frame inside a frame.
                self._transport.abort()
                return
            self.told_close = True
            self._write(close_frame(code, reason, masked=not self.is_client))
        self.leave()

    def leave(self) -> None:
        """Close when the peer has nothing left to say: its close frame has come, or comes within the deadline."""
        self._ending = True
        transport = self._transport
        if transport is None:
            return
        if self._deaf:
            transport.abort()
        elif self.said_close or not self.told_close:
            transport.close()
        else:
            # It may still be sending. Closing over bytes that nobody read would reset the close frame away.
            self.hold(False)
            if self._is_at_fault() and transport.can_write_eof():
                # Of its answer nothing can be read: that nothing follows, it must know from here.
                transport.write_eof()

    def part(self) -> None:
        """Forget the tunnel and the other end."""
        self._tunnel = None
        self.other = None

    def drop(self) -> None:
        """Cut the peer off, unless it has said goodbye."""
        if self._transport is not None:
            if self.said_close:
                self._transport.close()
            else:
                self._transport.abort()

    def needs_time(self) -> bool:
        """Something written has not left yet, or the peer has gone on sending since that was last asked."""
        heard, self._heard = self._heard, False
        if self._transport is None:
            return False
        if self._ending and heard and self._discarded < LINGER_BYTES:
            return True
        return not self._deaf and self._transport.get_write_buffer_size() > 0

    def is_gone(self) -> bool:
        """Its connection has ended."""
        return self._transport is None

    def is_stuck(self, now_ns: int, patience_ns: int) -> bool:
        """The peer has not read for so long."""
        return self._slow_since_ns != 0 and now_ns - self._slow_since_ns > patience_ns

    def new_frames(self) -> int:
        """Frames begun since it was last asked."""
        frames = self._scanner.frames
        new: int = frames - self._frames
        self._frames = frames
        return new
