"""Copies of requests for a provider whose answers go nowhere: bounded, on their own connections and deadlines, never waited for."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from budgateway.errors import GatewayError
from budgateway.exchange_cy import Carrier, Exchange
from budgateway.native import CHUNKED, VERDICT_NEUTRAL, BodyPump, Split

if TYPE_CHECKING:
    from budgateway.native import ResponseHead
    from budgateway.records import Mirror

_log = logging.getLogger("budgateway.mirror")
# So that who runs the mirror can tell copies from requests.
_MARK = b"x-budgateway-mirror: 1\r\n"


class MirrorCounts:
    """What became of copies in one worker since it began."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.skipped = 0  # too many under way, too large, streamed, or no upstream to send it to


class Mirroring(Carrier):
    """Of one route, in one worker. A copy is an exchange without a client; what fails with it fails alone."""

    def __init__(self, limits: Mirror, leg: Any, counts: MirrorCounts, seed: int) -> None:
        """`leg` is the route's way to the provider."""
        self._limits = limits
        self._leg = leg
        self._counts = counts
        self._turns = Split([("copied", 0), ("not", 1)], (0, limits.share), seed=seed)
        self._under_way: dict[Exchange, asyncio.TimerHandle] = {}

    def copy(self, x: Exchange, spawn: Any) -> None:
        """Send what the client sent to the mirror as well, if it is this one's turn and there is room."""
        if self._turns.pick(None) != 0:
            return
        limits = self._limits
        if not x.body_done or x.body_bytes > limits.max_body_bytes or len(self._under_way) >= limits.max_in_flight:
            self._counts.skipped += 1
            return
        copy = Exchange(x.head, None, x.client, monotonic_ns())
        copy.request_id = x.request_id
        copy.body = x.body
        copy.body_done = True
        copy.to_head = x.to_head
        copy.peek = x.peek
        copy.model = x.model
        copy.leg = self._leg
        try:
            self._leg.adapter.adapt(copy)
            if self._leg.balancer.try_next(copy, copy.ready_ns) < 0:
                self._counts.skipped += 1
                return
            deadline = asyncio.get_running_loop().call_later(limits.timeout_s, self._end, copy, False)
            self._under_way[copy] = deadline
            target = copy.target
            copy.task = spawn(target.dialler.dial(target, copy, self))
        except Exception:  # noqa: BLE001 - a copy's defect must not reach the exchange that it copies
            _log.exception("a copy of exchange %s failed", x.request_id)
            self._end(copy, False)

    # ---------------------------------------------------------------- told by the dial

    def connected(self, copy: Exchange, connection: Any) -> None:
        """A dial came through."""
        copy.task = None
        if copy.closed:
            connection.abort()
            return
        copy.connection = connection
        body = copy.send_body
        head: bytes = copy.target.write_head(copy.head, copy.request_id, -1 if body is None else len(body))
        connection.send(copy, head[:-2] + _MARK + b"\r\n", body, copy.to_head, True)

    def unreachable(self, copy: Exchange, error: GatewayError) -> None:
        """A dial failed."""
        copy.task = None
        self._end(copy, False)

    # ---------------------------------------------------------------- told by the connection

    def received(self, x: Exchange, head: ResponseHead | None, out: bytes | None, complete: bool, now_ns: int) -> None:
        """Something of the answer, which is read to its end and let go."""
        if head is not None:
            x.status = head.status
            if not complete:
                x.pump = BodyPump((head.flags & CHUNKED) != 0, False, 0, None)
        if complete:
            x.connection = None
            self._end(x, x.status < 500)

    def lost(self, x: Exchange, error: GatewayError) -> None:
        """The connection ended before the answer did."""
        x.connection = None
        self._end(x, False)

    def crashed(self, x: Exchange, error: Exception) -> None:
        """A defect of ours: the copy ends."""
        _log.error("a copy of exchange %s failed", x.request_id, exc_info=error)
        self._end(x, False)

    def upstream_writable(self, x: Exchange, ok: bool) -> None:
        """The copy was written whole: it waits in the connection's buffer, within the bounds of body and number."""

    def _end(self, copy: Exchange, is_answered: bool) -> None:
        """Give back what the copy holds, once."""
        if copy.closed:
            return
        copy.closed = True
        deadline = self._under_way.pop(copy, None)
        if deadline is not None:
            deadline.cancel()
        if is_answered:
            self._counts.answered += 1
        else:
            self._counts.failed += 1
        if copy.index >= 0:
            # Whatever it was: nobody's traffic may depend on how a mirror does.
            self._leg.balancer.release(copy, VERDICT_NEUTRAL, monotonic_ns())
        connection, copy.connection = copy.connection, None
        if connection is not None:
            connection.abort()
        task, copy.task = copy.task, None
        if task is not None:
            task.cancel()
