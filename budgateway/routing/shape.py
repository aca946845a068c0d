"""Per-route request handling: maintenance, split, pin, WebSocket upgrade. A route without these has no Shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from budgateway.errors import UnderMaintenance
from budgateway.exchange.cached_plan import CachedShape
from budgateway.native import Split
from budgateway.wire.websocket import Handshake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.records import Route


def split_of(route: Route, seed: int = 0) -> Split | None:
    """The split of a route's requests among `route.answerers()`; None for a single provider."""
    names = route.answerers()
    if len(names) < 2:
        return None
    weights = [*(route.split or ((route.provider, 1),))]
    if route.canary is None:
        return Split(weights, seed=seed)
    return Split([*weights, (names[-1], 0)], (len(names) - 1, route.canary.share), seed=seed)


def explain(route: Route, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Describe, for people, what applies to a request on this route: (what, how) pairs in order of precedence."""
    lines: list[tuple[str, str]] = []
    given = {name.lower(): value for name, value in headers}
    if route.maintenance is not None:
        lines.append(("closed", f"503: {route.maintenance.message}"))
    if route.websocket is not None:
        lines.append(("websocket", "handshakes alone"))
    rest = 1.0
    answers = ""
    if route.canary is not None:
        canary = route.canary
        words = [f"{canary.share * 100:g} % of the requests"] if canary.share else []
        if canary.header:
            words.append(f"header {canary.header}" + (f" = {canary.value}" if canary.value else ""))
            if canary.header in given and (not canary.value or given[canary.header] == canary.value):
                answers = canary.provider
        lines.append(("canary", f"{canary.provider}: {', or '.join(words)}"))
        rest -= canary.share
    if len(route.split) > 1:
        total = sum(weight for _, weight in route.split)
        lines.append(
            ("split", ", ".join(f"{name} {weight / total * rest * 100:.4g} %" for name, weight in route.split))
        )
    if route.pin_by:
        kind, _, header = route.pin_by.partition(":")
        key = given.get(header) if kind == "header" else None
        split = split_of(route)
        if key is not None and split is not None and not answers:
            answers = route.answerers()[split.pick(key)]
        lines.append(("pinned", f"by header {header}" if kind == "header" else f"by {kind}"))
    if answers:
        lines.append(("answers", f"{answers}, unless all of its upstreams are down"))
    if route.rate_limit:
        burst = route.rate_burst or max(1, route.rate_limit // 10)
        lines.append(("limit", f"{route.rate_limit} requests a minute for each client, burst {burst}"))
    if route.cors is not None:
        lines.append(("cors", f"pages of {', '.join(route.cors.origins)}"))
    if route.mirror is not None:
        lines.append(("mirror", f"{route.mirror.provider}: {route.mirror.share * 100:g} % of the requests"))
    return lines


class Shape:
    """The shape of one route, in one worker."""

    def __init__(self, route: Route, destinations: Sequence[Any], split: Split | None) -> None:
        """`split` chooses among `destinations`; with a canary, the last destination is the canary's."""
        self._maintenance = route.maintenance
        self._websocket = route.websocket
        self._canary = route.canary
        kind, _, header = route.pin_by.partition(":")
        self._pin_kind = kind
        self._pin_header = header
        self._destinations = tuple(destinations)
        self._split = split

    @classmethod
    def is_needed(cls, route: Route) -> bool:
        """True when the route has a setting that is handled here."""
        return bool(route.maintenance or route.websocket or route.pin_by or route.canary or len(route.split) > 1)

    def cached_plan(self, x: Exchange) -> CachedShape | None:
        """Return the choice of a destination for a cached plan; None for a route under maintenance, or for
        WebSockets."""
        if self._maintenance is not None or self._websocket is not None:
            return None
        canary = None
        if self._canary is not None and self._canary.header:
            canary = (self._canary.header, self._canary.value)
        destinations = tuple(destination.balancer.cached_destination() for destination in self._destinations)
        return CachedShape(self._pin_kind, self._pin_header, self._split, canary, destinations)

    def apply(self, x: Exchange) -> None:
        """Choose the destination, set the pin and the WebSocket handshake. UnderMaintenance, UpgradeRequired,
        BadRequest."""
        closed = self._maintenance
        if closed is not None:
            raise UnderMaintenance(closed.message, retry_after_s=closed.retry_after_s)
        if self._websocket is not None:
            x.handshake = Handshake.read(x.head, compression=self._websocket.compression)
        if self._pin_kind:
            x.pin = self._pin(x)
        # An exchange that the fast path gave up has a destination already.
        if self._split is not None and x.resume_at < 4:
            x.destination = self._choose(x, self._split)

    def _pin(self, x: Exchange) -> str | None:
        if self._pin_kind == "header":
            return x.head.header(self._pin_header)
        if self._pin_kind == "user":
            return None if x.peek is None else x.peek.user
        return x.limit_key

    def _choose(self, x: Exchange, split: Split) -> Any:
        """The destination by turn or pin. Skips a destination whose upstreams are all out and, without a pin, one that
        is full. When all are full, the exchange waits for the one whose turn it was. A canary gets no more than its
        share."""
        destinations = self._destinations
        canary = self._canary
        if canary is not None and canary.header:
            said = x.head.header(canary.header)
            if said is not None and (not canary.value or said == canary.value):
                destination = destinations[-1]
                if destination.balancer.is_available(x.ready_ns):
                    return destination
        excluded = 0
        full: Any = None
        while True:
            index = split.pick(x.pin, excluded)
            if index < 0:
                return destinations[0] if full is None else full  # none available: the balancer raises the error
            destination = destinations[index]
            spilled = full is not None and canary is not None and destination is destinations[-1]
            if not spilled and destination.balancer.is_available(x.ready_ns):
                if x.pin is not None or destination.balancer.has_room(x.ready_ns):
                    return destination
                full = full or destination
            excluded |= 1 << index
