"""Mirrors: copies of requests, sent to a provider whose responses are discarded.

Copies are bounded and have their own connections and deadlines; the original never waits for its copy.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from budgateway.errors import BadRequest, GatewayError
from budgateway.exchange.exchange_cy import Exchange
from budgateway.exchange.handler_cy import ExchangeHandler
from budgateway.native import CHUNKED, VERDICT_NEUTRAL, BodyPump, Split

if TYPE_CHECKING:
    from budgateway.native import ResponseHead
    from budgateway.records import Mirror

_log = logging.getLogger("budgateway.mirror")
# Lets the mirror's operator tell copies from requests.
_MARK = b"x-budgateway-mirror: 1\r\n"


class MirrorCounts:
    """Counts of copies by result, since the worker's start."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.skipped = 0  # too many in flight, body too large or not complete, or no upstream available


class Mirroring(ExchangeHandler):
    """The mirror of one route, in one worker. A copy is an exchange without a client; its failures stay its own."""

    def __init__(self, limits: Mirror, destination: Any, counts: MirrorCounts, seed: int) -> None:
        """`destination` is the mirror's provider."""
        self._limits = limits
        self._destination = destination
        self._counts = counts
        self._turns = Split([("copied", 0), ("not", 1)], (0, limits.share), seed=seed)
        self._under_way: dict[Exchange, asyncio.TimerHandle] = {}

    def copy(self, x: Exchange, spawn: Any) -> None:
        """Send a copy of the request to the mirror, if it falls into the share and within the limits."""
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
        copy.is_head = x.is_head
        copy.peek = x.peek
        copy.model = x.model
        copy.dialect = x.dialect
        copy.destination = self._destination
        try:
            copy.adapter = self._destination.adapters[x.dialect]
            # A copy that passes unchanged asks for no usage: nobody reads it.
            copy.streams = x.streams and copy.adapter.translates
            copy.adapter.request(copy)
            if self._destination.transforms is not None:
                copy.principal = x.principal
                copy.route = x.route
                copy.body_done = x.body_done
                copy.transforms = x.transforms
                self._destination.transforms.request(copy)
            if copy.reply is not None or self._destination.balancer.try_next(copy, copy.ready_ns) < 0:
                self._counts.skipped += 1
                return
            deadline = asyncio.get_running_loop().call_later(limits.timeout_s, self._end, copy, False)
            self._under_way[copy] = deadline
            target = copy.target
            copy.task = spawn(target.dialler.dial(target, copy, self, self))
        except BadRequest:
            self._counts.skipped += 1  # the mirror's dialect has no form for it
        except Exception:  # noqa: BLE001 - a copy's defect must not reach the exchange that it copies
            _log.exception("a copy of exchange %s failed", x.request_id)
            self._end(copy, False)

    # ---------------------------------------------------------------- called by the dial

    def connected(self, copy: Exchange, connection: Any) -> None:
        """Send the copy: a connection was established."""
        copy.task = None
        if copy.closed:
            connection.abort()
            return
        copy.connection = connection
        body = copy.send_body
        length = -1 if body is None else len(body)
        head: bytes = copy.target.write_head(copy.head, copy.request_id, length, copy.head_edits)
        connection.send(copy, head[:-2] + _MARK + b"\r\n", body, copy.is_head, True)

    def unreachable(self, copy: Exchange, error: GatewayError) -> None:
        """End the copy: no connection was established."""
        copy.task = None
        self._end(copy, False)

    # ---------------------------------------------------------------- called by the connection

    def response(self, x: Exchange, head: ResponseHead, now_ns: int) -> None:
        """End the copy: its response is discarded, and counts as answered below status 500."""
        self.response_end(x, None, now_ns)

    def response_head(self, x: Exchange, head: ResponseHead, now_ns: int) -> BodyPump:
        """Begin to read a response, to its end."""
        return BodyPump((head.flags & CHUNKED) != 0, False, 0, None)

    def response_data(self, x: Exchange, out: bytes) -> None:
        """Discard a piece of the response."""

    def response_flush(self, x: Exchange) -> None:
        """Do nothing: no head is held back."""

    def response_end(self, x: Exchange, out: bytes | None, now_ns: int) -> None:
        """End the copy: its response was read to the end."""
        x.connection = None
        self._end(x, x.status < 500)

    def lost(self, x: Exchange, error: GatewayError) -> None:
        """End the copy: the connection ended before the response did."""
        x.connection = None
        self._end(x, False)

    def crashed(self, x: Exchange, error: Exception) -> None:
        """Log a defect of ours, and end the copy."""
        _log.error("a copy of exchange %s failed", x.request_id, exc_info=error)
        self._end(x, False)

    def upstream_writable(self, x: Exchange, ok: bool) -> None:
        """Do nothing: the copy was written whole. Its unsent bytes are bounded by the limits on size and number."""

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
            # Always neutral: a mirror's result must not affect real traffic.
            self._destination.balancer.release(copy, VERDICT_NEUTRAL, monotonic_ns())
        connection, copy.connection = copy.connection, None
        if connection is not None:
            connection.abort()
        task, copy.task = copy.task, None
        if task is not None:
            task.cancel()
