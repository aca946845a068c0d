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

    from budgateway.errors import GatewayError
    from budgateway.exchange_cy import Carrier
    from budgateway.server.connection_cy import ServerConnection
    from budgateway.server.proxies import Proxies
    from budgateway.server.websocket import Tunnel

MAX_TURNED_AWAY = 256  # connections that are being told so; what comes on top is cut off

_log = logging.getLogger("budgateway.server")


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
    ) -> None:
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

    def has_room(self) -> bool:
        """Whether one more connection may come in."""
        return len(self.connections) < self.max_connections

    def turn_away(self) -> bool:
        """Count a connection for which there is no room; whether it is to be told so, or else cut off."""
        self.refused_connections += 1
        return len(self.connections) - self.max_connections < MAX_TURNED_AWAY

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
