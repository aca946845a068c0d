"""The Python side of the fast path: caches plans for it, and takes over the exchanges that it gives up.

The native half (`native/src/engine/fastpath`) serves an exchange from the read of its request to the write of its
response, when both are common and there is a cached plan for its kind. `insert` caches the plan of an exchange that
took the ordinary path. An exchange that turns out uncommon continues here, in the state that it would have had on the
ordinary path.
"""

from __future__ import annotations

from time import monotonic_ns, time
from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.exchange.cached_plan import CachedChoice, CachedIdentity, CachedLimits, CachedRoute
from budgateway.proxy.pipeline_cy import stages_of
from budgateway.server.framing_cy import request_parser
from budgateway.transport.client_cy import response_parser
from budgateway.wire.inference import ERROR_BODIES

if TYPE_CHECKING:
    from budgateway.auth.authenticator_cy import VerifiedCredential
    from budgateway.exchange.cached_plan import Part
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.observe.record_cy import Recorder
    from budgateway.proxy.pipeline_cy import Snapshot
    from budgateway.proxy.relay_cy import Relay
    from budgateway.server.connection_cy import ServerConnection
    from budgateway.transport.client_cy import ClientConnection

QUIET_NS = 500_000_000  # SUSPECT_NS of relay_cy less a sweep: finds silence as early as without the fast path
SLACK_NS = 500_000_000  # two sweeps: the relay gets an exchange this long before its deadline
_EVER_NS = (1 << 63) - 1


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

    def __init__(self, relay: Relay, recorder: Recorder) -> None:
        self._relay = relay
        # (route, credential, model) -> whether the plan of this kind is cached
        self._kinds: dict[tuple[int, str | None, str], bool] = {}
        relay.fastpath = self
        self.native = native.FastPath(
            ids=relay.ids,
            ledger=recorder.ledger,
            requests=request_parser,
            responses=response_parser,
            doubtful=list(ERROR_BODIES),
            resume=self.resume,
            flush=recorder.flush,
            block_bytes=recorder.block_bytes,
            quiet_ns=QUIET_NS,
            slack_ns=SLACK_NS,
        )

    def follow(self, snapshot: Snapshot) -> None:
        """Serve requests under this configuration from now on. Exchanges in flight end
        under the former one, in the relay."""
        self._kinds.clear()
        self.native.follow(snapshot.routes.table, snapshot.auth.asks)

    def clear(self) -> None:
        """Drop all cached plans: credentials or served models have changed."""
        self._kinds.clear()
        self.native.clear()

    def insert(self, x: Exchange, now_ns: int) -> None:
        """Cache the plan of an exchange that ended well, if every stage contributes its part; then the client's next
        request goes to the fast path. Does nothing for an exchange that was retried, streamed, renamed or
        refused: the native half serves none of those."""
        route = x.route
        if x.streams or x.rename or x.tap is not None or x.attempts != 1 or x.status >= 300 or not route.is_cacheable():
            return
        snapshot: Snapshot = x.snapshot
        if snapshot is not self._relay.snapshot:
            return
        if route.cors is not None and route.cors.by_origin and x.head.header("origin") is not None:
            return  # the native half does not serve such a request
        try:
            kind = (route.place, snapshot.auth.given(x), x.model)
        except ValueError:
            return
        cached = self._kinds.get(kind)
        if cached is None:
            if len(self._kinds) >= native.MAX_CACHED_PLANS:
                self.clear()
            parts = cached_parts(x)
            cached = self._kinds[kind] = parts is not None
            if parts is not None:
                self._insert(x, parts)
        if cached:
            x.downstream.fast_eligible = True

    def _insert(self, x: Exchange, parts: dict[type[Part], Any]) -> None:
        """Pass the parts of a plan to the native half."""
        identity: CachedIdentity = parts[CachedIdentity]
        until_ns = _EVER_NS
        if identity.asker is not None:
            until_ns = min(until_ns, monotonic_ns() + int((identity.until_s - time()) * 1e9))
        route, limits, choice = parts[CachedRoute], parts[CachedLimits], parts[CachedChoice]
        self.native.insert(x.model, identity, route, limits, choice, until_ns=until_ns)

    def resume(self, given_up: native.Resumable) -> None:
        """Continue an exchange that the fast path gave up. Its upstream is chosen, and its request was sent on
        `connection`; without a connection it is still to be sent."""
        relay = self._relay
        downstream: ServerConnection = given_up.downstream
        connection: ClientConnection | None = given_up.connection
        verified: VerifiedCredential | None = given_up.verified
        started_ns, sent_ns = given_up.started_ns, given_up.sent_ns
        x = downstream.adopt(given_up.head, given_up.data, started_ns)
        relay.in_flight += 1
        x.request_id = given_up.request_id
        x.snapshot = relay.snapshot
        x.resume_at = 4
        x.reservation = given_up.reservation
        if verified is not None:
            x.verified = verified
            x.principal = verified.principal
            x.limit_key = verified.id
        snapshot: Snapshot = x.snapshot
        snapshot.routes.match(x)
        route = x.route
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
