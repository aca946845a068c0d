"""The front door of one worker: what all its connections share, and the sweep that looks at their deadlines."""

from __future__ import annotations

import logging
from array import array
from time import monotonic_ns, time
from typing import TYPE_CHECKING, Any

from budgateway.errors import Overloaded
from budgateway.native import FACTS, HeadReader
from budgateway.server.address import Networks
from budgateway.server.watch import Watch
from budgateway.wire.answer import response_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from budgateway.errors import GatewayError
    from budgateway.exchange_cy import Carrier
    from budgateway.server.connection_cy import ServerConnection
    from budgateway.server.proxies import Proxies
    from budgateway.server.websocket import Tunnel

MAX_TURNED_AWAY = 256  # connections that are being told so; what comes on top is cut off

RESERVE = 32  # descriptors of a worker that are no connections: segment, loop, control channel, logs, store
MIN_HERE = 4

# What a connection holds of the door.
OUTSIDE = 0  # nothing: it was not let in, or is over
ADMITTED = 1  # one of the `max_connections` of all workers
TOLD = 2  # a moment to hear that there is no room

_log = logging.getLogger("budgateway.server")

if TYPE_CHECKING:

    class Places(Protocol):
        """The count of connections that all workers share."""

        def enter(self, most: int) -> bool:
            """Count one more, unless that makes more than `most` in all workers."""
            ...

        def leave(self) -> None:
            """Count one less."""


class Door:
    """What the connections of one worker share: whom to hand exchanges to, limits, the coarse clock."""

    def __init__(
        self,
        handler: Carrier,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        keepalive_ns: int,
        head_timeout_ns: int,
        max_body_bytes: int,
        max_connections: int,
        watch: Watch | None = None,
        places: Places | None = None,
    ) -> None:
        """`max_connections` are those of all workers where `places` counts them, else this door's own."""
        # process
        self.handler = handler
        self.call_soon = call_soon
        self.watch = Watch() if watch is None else watch
        self.keepalive_ns = keepalive_ns
        self.head_timeout_ns = head_timeout_ns
        self.proxies: Proxies | None = None
        self.networks = Networks()
        self.express: Any = None
        self.max_body_bytes = max_body_bytes
        self.max_connections = max_connections
        self.places = places
        self.most_here = max_connections  # what this process has descriptors for
        self.most_told = MAX_TURNED_AWAY
        self.admitted = 0
        self.told = 0
        # open; of those that are admitted some may still shake hands
        self.connections: set[ServerConnection | Tunnel] = set()
        self.refused_connections = 0
        self.full_lines = b""  # header lines of what is told to a connection for which there is no room
        self._full = b""
        self._full_at = 0  # in seconds since the epoch: the answer says when it was
        # moved by the sweep, four times a second: good enough for idle deadlines, and free
        self.now_ns = monotonic_ns()
        self.draining = False
        facts = array("q", bytes(8 * FACTS))
        self.facts = facts
        self.read_head = HeadReader(facts).request

    def admit(self) -> int:
        """Let one more connection in, if there is room: ADMITTED, TOLD, or OUTSIDE for one that is to be cut off."""
        if self.admitted < self.most_here and self._has_place():
            self.admitted += 1
            return ADMITTED
        self.refused_connections += 1
        if self.told < self.most_told:
            self.told += 1
            return TOLD
        return OUTSIDE

    def lets_in(self, connection: Any) -> bool:
        """Whether a connection may stay. Who accepted it may have asked already, before a handshake."""
        if connection.place == OUTSIDE:
            connection.place = self.admit()
        return bool(connection.place == ADMITTED)

    def leave(self, connection: Any) -> None:
        """A connection is over: take back what it held, if it does still."""
        self.connections.discard(connection)
        held = connection.place
        connection.place = OUTSIDE
        if held == ADMITTED:
            self.admitted -= 1
            if self.places is not None:
                self.places.leave()
        elif held == TOLD:
            self.told -= 1

    def bound(self, descriptors: int) -> None:
        """Let no more in than this process has descriptors for: each needs one, and another for its upstream."""
        spare = descriptors - RESERVE
        self.most_told = min(MAX_TURNED_AWAY, max(MIN_HERE, spare // 4))
        self.most_here = max(MIN_HERE, (spare - self.most_told) // 2)

    def accepts(self) -> bool:
        """Whether there is a descriptor for one more connection, if only to be told that there is no room: what comes beyond
        that waits in the socket's queue."""
        return self.admitted + self.told < self.most_here + self.most_told

    def _has_place(self) -> bool:
        if self.places is None:
            return self.admitted < self.max_connections
        return self.places.enter(self.max_connections)

    def full(self) -> bytes:
        """What a connection is told for which there is no room. Not cut off: a balancer in front takes a 503 as a reason to go
        elsewhere."""
        now = int(time())
        if now != self._full_at:
            error = Overloaded("the gateway has as many connections as it may", retry_after_s=1.0)
            self._full = response_bytes(error, "-", "", True, more=self.full_lines)
            self._full_at = now
        return self._full

    def sweep(self, now_ns: int) -> None:
        """Let every connection look at its deadline."""
        self.now_ns = now_ns
        if self.express is not None:
            self.express.sweep(now_ns)
        for connection in tuple(self.connections):
            try:
                connection.sweep(now_ns)
            except Exception:  # noqa: BLE001 - R17: a defect in one exchange is no reason to watch over no other
                _log.exception("a connection's deadlines could not be looked at")
                connection.abort()

    def drain(self, grace_ns: int) -> None:
        """Stop keep-alive: responses that begin now say that they are the last, idle connections close when nothing comes for
        `grace_ns`, and so do those whose response has begun. A request may be on its way, and closing under it would cost an
        innocent client an error."""
        self.draining = True
        if self.express is not None:
            self.express.open(False)
            self.express.hand_over()
        self.keepalive_ns = grace_ns
        deadline_ns = monotonic_ns() + grace_ns
        for connection in tuple(self.connections):
            connection.hasten(deadline_ns)

    def end(self, error: GatewayError) -> None:
        """End what is in flight with an error, and every connection."""
        if self.express is not None:
            self.express.hand_over()
        for connection in tuple(self.connections):
            connection.end(error)
