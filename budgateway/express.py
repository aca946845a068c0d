"""The express, seen from Python: what it may carry, and who goes on with what it cannot.

The native half (`native/src/express`) carries an exchange from the read of its request to the write of its response, when
both are common and the pipeline has decided about one like it before. Such a decision is a precedent: `learn` makes one of
an exchange that went the ordinary way. Whatever turns out uncommon is taken over here, in the state that it would have had
on the ordinary way.
"""

from __future__ import annotations

from time import monotonic_ns, time
from typing import TYPE_CHECKING

from budgateway import native
from budgateway.server.framing_cy import request_parser
from budgateway.transport.client_cy import response_parser
from budgateway.wire.inference import ERROR_BODIES

if TYPE_CHECKING:
    from budgateway.auth.authenticator_cy import Standing
    from budgateway.exchange_cy import Exchange
    from budgateway.limits.stage_cy import Prepared
    from budgateway.observe.record_cy import Recorder
    from budgateway.pipeline_cy import Snapshot
    from budgateway.relay_cy import Relay
    from budgateway.routing.router_cy import RouteRoom
    from budgateway.server.connection_cy import ServerConnection
    from budgateway.transport.client_cy import ClientConnection

QUIET_NS = (
    500_000_000  # a sweep less than SUSPECT_NS of relay_cy: a silent upstream is found as early as without the express
)
SLACK_NS = 500_000_000  # two sweeps: so long before a deadline the relay has what it is about
MAX_LEARNT = 1024  # kinds of exchanges, as many as the native half remembers
MAX_NAME = 256  # characters of a model's name: clients may make them up
_EVER_NS = (1 << 63) - 1


class Express:
    """One per worker, beside the relay."""

    def __init__(self, relay: Relay, recorder: Recorder) -> None:
        self._relay = relay
        self._learnt: set[tuple[int, str | None, str]] = set()
        relay.express = self
        self.native = native.Express(
            relay.ids,
            recorder.ledger,
            request_parser,
            response_parser,
            list(ERROR_BODIES),
            self.take_over,
            recorder.flush,
            recorder.block_bytes,
            recorder.epoch_ns,
            QUIET_NS,
        )

    def follow(self, snapshot: Snapshot) -> None:
        """Carry what this configuration is about from now on. What is on its way goes on under the former one."""
        self._learnt.clear()
        self.native.follow(snapshot.routes.table, snapshot.auth.asks)

    def forget(self) -> None:
        """Who was known before may not be any more, and upstreams may serve other models."""
        self._learnt.clear()
        self.native.forget()

    def learn(self, x: Exchange, now_ns: int) -> None:
        """Make a precedent of an exchange that ends well now, if it is of a kind that can be carried: then the client's next
        request is offered."""
        route: RouteRoom = x.route
        if not route.rides or x.streams or x.rename or x.attempts != 1 or not x.model or x.status >= 300:
            return
        # Roles tell methods apart; a fallback has prices and names of its own.
        if x.head.method != "POST" or x.leg is not route.legs[0] or len(x.model) > MAX_NAME:
            return
        snapshot: Snapshot = x.snapshot
        try:
            given = snapshot.auth.given(x)
        except ValueError:
            return
        kind = (route.place, given, x.model)
        if snapshot is not self._relay.snapshot:
            return
        if kind in self._learnt:
            x.downstream.rides = True
            return
        prepared: Prepared | None = route.limits.pick(x)
        if prepared is not None and (prepared.is_shared or prepared.lease is not None or prepared.spends):
            return
        if len(self._learnt) >= MAX_LEARNT:
            self.forget()
        self._learnt.add(kind)
        x.downstream.rides = True
        leg = route.legs[0]
        until_ns = _EVER_NS
        asker: tuple[str, str, str, str] | None = None
        standing: Standing | None = x.standing
        principal = x.principal
        if standing is not None and principal is not None:
            until_ns = min(until_ns, monotonic_ns() + int((min(standing.expires, 4e9) - time()) * 1e9))
            asker = (principal.id, x.limit_key, principal.key or x.limit_key, principal.tenant)
        self.native.learn(
            route.place,
            None if given is None else given.encode("latin-1"),
            x.model,
            (route.label, leg.label, x.model_label),
            None if prepared is None else prepared.limits,
            snapshot.limits.price(x),
            leg.balancer.selector,
            leg.balancer.left_out(x.model),
            [(target.pool.idle, target.writer, target.label, target.disclosure) for target in leg.balancer.targets],
            asker,
            standing,
            until_ns,
            route.max_body_bytes,
            min(route.first_byte_ns, route.total_ns) - SLACK_NS,
        )

    def take_over(
        self,
        downstream: ServerConnection,
        connection: ClientConnection | None,
        head: native.RequestHead,
        data: bytes,
        request_id: str,
        index: int,
        grant: native.Grant | None,
        standing: Standing | None,
        started_ns: int,
        sent_ns: int,
    ) -> None:
        """Go on with an exchange that has its upstream, and whose request is on its way to it; without a connection that is
        still to be done."""
        relay = self._relay
        x = downstream.adopt(head, data, started_ns)
        relay.in_flight += 1
        x.request_id = request_id
        x.snapshot = relay.snapshot
        x.stage = 4
        x.grant = grant
        if standing is not None:
            x.standing = standing
            x.principal = standing.principal
            x.limit_key = standing.id
        snapshot: Snapshot = x.snapshot
        snapshot.routes.match(x)
        route: RouteRoom = x.route
        x.leg.adapter.adapt(x)
        x.index = index
        x.target = x.leg.balancer.targets[index]
        x.overhead_ns = sent_ns - started_ns
        if connection is None:
            relay.waited(x, None)
            return
        x.attempts = 1
        x.leg_attempts = 1
        x.reused = True
        x.asked = True
        x.connection = connection
        connection.adopt(x)
        x.answer_ns = sent_ns + route.first_byte_ns
        x.deadline_ns = route.attempts.patience(x, sent_ns)
