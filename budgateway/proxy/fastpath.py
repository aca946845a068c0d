"""The Python side of the fast path: caches plans for it, and takes over the exchanges that it gives up.

The native half (`native/src/engine/fastpath`) serves an exchange from the read of its request to the write of its
response, when both are common and there is a cached plan for its kind. `insert` caches the plan of an exchange that
took the ordinary path. An exchange that turns out uncommon continues here, in the state that it would have had on the
ordinary path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.exchange.cached_plan import (
    CachedBody,
    CachedChoice,
    CachedIdentity,
    CachedLimits,
    CachedRoute,
    CachedShape,
)
from budgateway.proxy.pipeline_cy import stages_of
from budgateway.routing.router_cy import path_of
from budgateway.server.framing_cy import request_parser
from budgateway.server.proxies import blocks_of
from budgateway.transport.client_cy import response_parser
from budgateway.wire.dialects import RULES
from budgateway.wire.inference import ERROR_BODIES

if TYPE_CHECKING:
    from budgateway.exchange.cached_plan import Part
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.observe.record_cy import Recorder
    from budgateway.proxy.pipeline_cy import Snapshot
    from budgateway.proxy.relay_cy import Relay
    from budgateway.server.connection_cy import ServerConnection
    from budgateway.transport.client_cy import ClientConnection

QUIET_NS = 500_000_000  # SUSPECT_NS of relay_cy less a sweep: finds silence as early as without the fast path
SLACK_NS = 500_000_000  # two sweeps: the relay gets an exchange this long before its deadline


def cached_parts(x: Exchange) -> dict[type[Part], Any] | None:
    """Return the stages' parts of x's cached plan, by type; None when one of them must see every request."""
    parts: dict[type[Part], Any] = {}
    for stage in stages_of(x):
        if stage is None:
            continue
        cached_plan = getattr(stage, "cached_plan", None)
        part = None if cached_plan is None else cached_plan(x)
        if part is None:
            return None
        parts[type(part)] = part
    return parts


class FastPath:
    """The fast path of one worker."""

    def __init__(self, relay: Relay, recorder: Recorder, epoch_ns: int) -> None:
        """`epoch_ns`: the wall clock less the monotonic one."""
        self._relay = relay
        # Kinds of requests that cannot ride, by route, destination, dialect, path where there is none,
        # class of principals and model; the oldest makes room.
        self._uncommon: dict[tuple[int, int, int, bytes, int, str], None] = {}
        relay.fastpath = self
        self.native = native.FastPath(
            ids=relay.ids,
            ledger=recorder.ledger,
            dialects=RULES,
            requests=request_parser,
            responses=response_parser,
            doubtful=list(ERROR_BODIES),
            resume=self.resume,
            released=self.released,
            flush=recorder.flush,
            block_bytes=recorder.block_bytes,
            quiet_ns=QUIET_NS,
            slack_ns=SLACK_NS,
            epoch_ns=epoch_ns,
        )

    def follow(self, snapshot: Snapshot) -> None:
        """Serve requests under this configuration from now on. Exchanges in flight end
        under the former one, in the relay."""
        self._uncommon.clear()
        settings = snapshot.settings
        self.native.follow(
            snapshot.routes.table,
            snapshot.auth.credentials,
            snapshot.limits.waiting,
            blocks_of(settings.trusted_proxies),
            settings.limits.ipv6_prefix,
        )
        self.native.set_day(snapshot.limits.today)

    def clear(self) -> None:
        """Drop all cached plans: the upstreams' models have changed."""
        self._uncommon.clear()
        self.native.clear()

    def insert(self, x: Exchange, now_ns: int) -> None:
        """Cache the plan of an exchange that ended well, if every stage contributes its part; then the client's next
        request goes to the fast path. Does nothing for an exchange that was retried, streamed or refused: the native
        half serves none of those."""
        route = x.route
        if x.streams or x.tap is not None or x.attempts != 1 or x.status >= 300 or not route.is_cacheable():
            return
        snapshot: Snapshot = x.snapshot
        if snapshot is not self._relay.snapshot:
            return
        if route.cors is not None and route.cors.by_origin and x.head.header("origin") is not None:
            return  # the native half does not serve such a request
        identity: CachedIdentity | None = snapshot.auth.cached_plan(x)
        if identity is None:
            return
        if x.destination not in route.destinations:
            return  # a fallback has answered
        destination = route.destinations.index(x.destination)
        kind = (route.place, destination, x.dialect, path_of(x), identity.principal_class, x.model)
        if kind in self._uncommon:
            return
        if not self.native.has_plan(*kind):
            parts = cached_parts(x)
            if parts is None:
                if len(self._uncommon) >= native.MAX_CACHED_PLANS:
                    del self._uncommon[next(iter(self._uncommon))]
                self._uncommon[kind] = None
                return
            self.native.insert(
                x.model,
                parts.get(CachedShape),
                parts[CachedIdentity],
                parts[CachedRoute],
                parts[CachedLimits],
                parts[CachedBody],
                parts[CachedChoice],
            )
        x.downstream.fast_eligible = True

    def released(self) -> None:
        """Have the exchanges tried again that wait for a lease: the fast path has released one."""
        snapshot = self._relay.snapshot
        if snapshot is not None:
            snapshot.limits.released()

    def resume(self, given_up: native.Resumable) -> None:
        """Continue an exchange that the fast path gave up. Its upstream is chosen, and its request was sent on
        `connection`; without a connection it is still to be sent."""
        relay = self._relay
        downstream: ServerConnection = given_up.downstream
        connection: ClientConnection | None = given_up.connection
        started_ns, sent_ns = given_up.started_ns, given_up.sent_ns
        x = downstream.adopt(given_up.head, given_up.data, started_ns)
        relay.in_flight += 1
        x.request_id = given_up.request_id
        x.snapshot = relay.snapshot
        x.resume_at = 4
        x.reservation = given_up.reservation
        snapshot: Snapshot = x.snapshot
        if given_up.credential is not None:
            snapshot.auth.recall(x, given_up.credential)
        snapshot.routes.match(x)
        route = x.route
        x.destination = route.destinations[given_up.destination]
        x.adapter = x.destination.adapters[x.dialect]
        x.adapter.request(x)
        x.index = given_up.index
        x.note = given_up.note
        x.target = x.destination.balancer.targets[x.index]
        x.overhead_ns = sent_ns - started_ns
        if connection is None:
            relay.waited(x, None)
            return
        x.attempts = 1
        x.destination_attempts = 1
        x.reused = True
        x.request_sent = True
        x.connection = connection
        connection.adopt(x)
        x.answer_ns = sent_ns + route.first_byte_ns
        x.deadline_ns = route.attempts.deadline(x, sent_ns)
