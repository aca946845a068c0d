"""The server state of one worker: what all its connections share, and the sweep that checks their deadlines."""

from __future__ import annotations

import logging
from array import array
from time import monotonic_ns, time
from typing import TYPE_CHECKING, Any

from budgateway.errors import Overloaded
from budgateway.native import FACTS, HeadReader
from budgateway.server.address import Networks
from budgateway.server.departures import Departures
from budgateway.wire.dialects import NONE, RULES
from budgateway.wire.error_response import body_bytes, response_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from budgateway.errors import GatewayError
    from budgateway.exchange.handler_cy import ExchangeHandler
    from budgateway.server.proxies import Proxies

MAX_TURNED_AWAY = 256  # connections that are sent a 503 at one time; beyond them, connections are dropped unanswered

RESERVE = 32  # descriptors of a worker other than connections: segment, loop, control channel, logs, Redis
MIN_HERE = 4

# The places that a connection can hold.
OUTSIDE = 0  # none: not admitted, or closed
ADMITTED = 1  # one of the `max_connections` of all workers
TOLD = 2  # being refused with a 503

_log = logging.getLogger("budgateway.server")

if TYPE_CHECKING:

    class Connected(Protocol):
        """An open connection, as the sweep and the end of the process see it."""

        def sweep(self, now_ns: int) -> None:
            """Check its deadlines."""

        def hasten(self, deadline_ns: int) -> None:
            """End as soon as possible without an error, and close at the deadline if it is idle."""

        def end(self, error: GatewayError) -> None:
            """End its exchange with an error, and close."""

        def abort(self) -> None:
            """Close at once."""

    class ConnectionCount(Protocol):
        """The connection count that all workers share."""

        def enter(self, most: int) -> bool:
            """Count one more and return True, unless that makes more than `most` in all workers."""
            ...

        def leave(self) -> None:
            """Count one less."""


class ServerState:
    """The server state of one worker: the handler of its exchanges, limits, the coarse clock."""

    def __init__(
        self,
        handler: ExchangeHandler,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        keepalive_ns: int,
        head_timeout_ns: int,
        max_body_bytes: int,
        max_connections: int,
        departures: Departures | None = None,
        connection_count: ConnectionCount | None = None,
    ) -> None:
        """`max_connections` counts those of all workers if `connection_count` is given, else this worker's only."""
        # process
        self.handler = handler
        self.call_soon = call_soon
        self.departures = Departures() if departures is None else departures
        self.keepalive_ns = keepalive_ns
        self.head_timeout_ns = head_timeout_ns
        self.proxies: Proxies | None = None
        self.networks = Networks()
        self.fastpath: Any = None
        self.max_body_bytes = max_body_bytes
        self.max_connections = max_connections
        self.connection_count = connection_count
        self.most_here = max_connections  # connections that this process has descriptors for
        self.most_told = MAX_TURNED_AWAY
        self.admitted = 0
        self.told = 0
        # open connections; those in a TLS handshake have a place already, but are not in here yet
        self.connections: set[Connected] = set()
        self.refused_connections = 0
        self.full_lines = b""  # header lines of the 503 that refuses a connection
        self._full = b""
        self._full_at = 0  # seconds since the epoch, because the 503 has a date
        # set by the sweep, four times a second: precise enough for idle deadlines, and free
        self.now_ns = monotonic_ns()
        self.draining = False
        facts = array("q", bytes(8 * FACTS))
        self.facts = facts
        reader = HeadReader(facts, (), RULES)
        self.read_head = reader.request
        self.dialect_of = reader.dialect
        self.dialect_in = reader.dialect_in

    def admit(self) -> int:
        """Give one more connection a place: ADMITTED, TOLD when there are too many, or OUTSIDE to drop it."""
        if self.admitted < self.most_here and self._has_place():
            self.admitted += 1
            return ADMITTED
        self.refused_connections += 1
        if self.told < self.most_told:
            self.told += 1
            return TOLD
        return OUTSIDE

    def lets_in(self, connection: Any) -> bool:
        """Return whether a connection is admitted. A listener may have given it its place before a handshake."""
        if connection.place == OUTSIDE:
            connection.place = self.admit()
        return bool(connection.place == ADMITTED)

    def leave(self, connection: Any) -> None:
        """Remove a closed connection, and take back its place if it still has one."""
        self.connections.discard(connection)
        held = connection.place
        connection.place = OUTSIDE
        if held == ADMITTED:
            self.admitted -= 1
            if self.connection_count is not None:
                self.connection_count.leave()
        elif held == TOLD:
            self.told -= 1

    def bound(self, descriptors: int) -> None:
        """Limit connections to the descriptors of this process: each needs one, and another for its upstream."""
        spare = descriptors - RESERVE
        self.most_told = min(MAX_TURNED_AWAY, max(MIN_HERE, spare // 4))
        self.most_here = max(MIN_HERE, (spare - self.most_told) // 2)

    def accepts(self) -> bool:
        """Return whether there is a descriptor for one more connection, if only to refuse it; others wait in the
        socket's queue."""
        return self.admitted + self.told < self.most_here + self.most_told

    def _has_place(self) -> bool:
        if self.connection_count is None:
            return self.admitted < self.max_connections
        return self.connection_count.enter(self.max_connections)

    def full(self) -> bytes:
        """Return the 503 that refuses a connection. It is not just closed, because a balancer in front takes a 503 as a
        reason to go elsewhere."""
        now = int(time())
        if now != self._full_at:
            error = Overloaded("the gateway has reached its maximum of connections", retry_after_s=1.0)
            self._full = response_bytes(error, "-", body_bytes(error, "-", NONE), True, more=self.full_lines)
            self._full_at = now
        return self._full

    def sweep(self, now_ns: int) -> None:
        """Let every connection check its deadlines."""
        self.now_ns = now_ns
        if self.fastpath is not None:
            self.fastpath.sweep(now_ns)
        for connection in tuple(self.connections):
            try:
                connection.sweep(now_ns)
            except Exception:  # noqa: BLE001 - R17: a defect in one exchange is no reason to watch over no other
                _log.exception("checking a connection's deadlines failed")
                connection.abort()

    def drain(self, grace_ns: int) -> None:
        """Stop keep-alive: responses that begin now say that they are the last, idle connections close when nothing
        comes for `grace_ns`, and so do those whose response has begun. A request may be on its way, and closing under
        it would cost an innocent client an error."""
        self.draining = True
        if self.fastpath is not None:
            self.fastpath.open(False)
            self.fastpath.fall_back()
        self.keepalive_ns = grace_ns
        deadline_ns = monotonic_ns() + grace_ns
        for connection in tuple(self.connections):
            connection.hasten(deadline_ns)

    def end(self, error: GatewayError) -> None:
        """End the exchanges in flight with an error, and every connection."""
        if self.fastpath is not None:
            self.fastpath.fall_back()
        for connection in tuple(self.connections):
            connection.end(error)
