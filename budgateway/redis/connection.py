"""One connection to Redis: commands go out in order, replies arrive in order, and each reaches its own sink."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

from hiredis import ProtocolError, Reader, pack_command

from budgateway.redis.reply import StoreError, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.redis.reply import Reply, Sink, Word

# The part of the deadline kept for replies that arrived while this process was busy: they are read before any command
# fails.
GRACE_S = 0.001


def packed(*command: Word) -> bytes:
    """Return a command in the protocol's framing (RESP)."""
    return cast("bytes", pack_command(command))  # type: ignore[arg-type]  # hiredis' stub says a tuple of one


class _Pending:
    """A command in flight. It keeps its slot in the order until the reply arrives, whatever happened to its caller."""

    __slots__ = ("due", "expired", "sink")

    def __init__(self, sink: Sink, due: float) -> None:
        self.sink = sink
        self.due = due
        self.expired = False


class Connection(asyncio.Protocol):
    """A connection owned by the store, never by a caller: a caller gets a sink's turn in the order of replies.

    A reply can therefore reach only the sink of its command: a cancelled or late caller's turn is not reused (the
    defect of CVE-2023-28858).
    """

    def __init__(self, ended: Callable[[Connection, str], None], answered: Callable[[bool], None]) -> None:
        """`ended(connection, reason)` is called once, when the connection ends; `answered(in_time)` after each read
        with replies, and each time that some are late."""
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self._answered = answered
        self._reader = Reader(replyError=StoreError)
        self._pending: deque[_Pending] = deque()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._reason = ""
        self.is_open = False

    @property
    def pending(self) -> int:
        """Number of commands that were sent and have no reply yet."""
        return len(self._pending)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def send(self, data: bytes, sinks: list[Sink], timeout_s: float) -> None:
        """Write packed commands, one for each sink. A command without a reply within `timeout_s` fails with TIMEOUT."""
        if self._transport is None or not self.is_open:
            for sink in sinks:
                sink.failed(StoreError("the connection is closed", "DOWN"))
            return
        due = self._loop.time() + timeout_s
        self._pending.extend(_Pending(sink, due) for sink in sinks)
        self._transport.write(data)
        if self._timer is None or due < self._timer_due:
            self._watch(due)

    async def ask(self, *command: Word, timeout_s: float) -> Reply:
        """Run one command and wait for the reply, while a connection is set up and before others use it. Raises
        StoreError."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.send(packed(*command), [Waiter(future)], timeout_s)
        return await future

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        heard = False
        try:
            while (reply := self._reader.gets()) is not False:
                if not self._pending:
                    self.abort("it sent a reply without a request")
                    return
                pending = self._pending.popleft()
                if pending.expired:
                    pending.sink.late(reply)
                    continue
                heard = True
                if isinstance(reply, StoreError):
                    pending.sink.failed(reply)
                else:
                    pending.sink.done(reply)
        except ProtocolError:
            self.abort("it does not speak Redis' protocol")
            return
        if heard:
            self._answered(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail_all(self._reason or (str(exc) if exc is not None else "it closed the connection"))

    def abort(self, reason: str) -> None:
        """Drop the connection. Every sink that still waits fails with LOST: its command may or may not have run."""
        if self._transport is not None:
            self._transport.abort()
        self._fail_all(reason)

    def _fail_all(self, reason: str) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._reason = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, deque()
        self._ended(self, reason)
        for one in pending:
            if one.expired:
                one.sink.late(StoreError(reason, "LOST"))
            else:
                one.sink.failed(StoreError(reason, "LOST"))

    def _watch(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(due - self._loop.time() - GRACE_S, 0.0), self._look)

    def _look(self) -> None:
        """Allow GRACE_S before the deadline, so that the socket is read once more before commands expire."""
        self._timer = self._loop.call_later(GRACE_S, self._expire)

    def _expire(self) -> None:
        self._timer = None
        # uvloop's timers count whole milliseconds.
        now = self._loop.time() + GRACE_S / 2
        late = [pending for pending in self._pending if not pending.expired and pending.due <= now]
        rest = [pending.due for pending in self._pending if not pending.expired and pending.due > now]
        for pending in late:
            pending.expired = True
        if rest:
            self._watch(min(rest))
        for pending in late:
            pending.sink.failed(StoreError("no reply in time", "TIMEOUT"))
        if late:
            self._answered(False)
