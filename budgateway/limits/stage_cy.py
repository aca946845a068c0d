"""The limits stage: one decision over all limits of an exchange, once its principal, route and model are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.exchange.cached_plan import CachedLimits
from budgateway.limits.prepared_cy import MAX_REMEMBERED, UNSEEN
from budgateway.native import Reservation

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.limits.global_limits import GlobalLimits
    from budgateway.limits.lease_queue import LeaseQueue
    from budgateway.limits.prepared_cy import Prepared, RouteLimits
    from budgateway.limits.rules import Rulebook
    from budgateway.native import Price, Refusal


class Limits:
    """The limits stage of a worker. All or nothing: a request that one limit refuses consumes nothing of the others."""

    def __init__(
        self,
        book: Rulebook,
        unrouted: RouteLimits,
        preflights: RouteLimits,
        waiting: LeaseQueue | None,
        global_limits: GlobalLimits | None = None,
    ) -> None:
        """`unrouted`: the limits of requests that find no route, or may not use it. `preflights`: the limit of
        preflights and `OPTIONS *`, which count for no other limit. Without `waiting`, a request above a concurrency
        limit is refused at once. `global_limits`: the global limits, if there are any."""
        self._book = book
        self._unrouted = unrouted
        self._preflights = preflights
        # Own path -> its limits, for paths that have their own; set once all routes are compiled.
        self.own: dict[str, RouteLimits] = {}
        self._waiting = waiting
        # The number of exchanges in that queue, for the fast path.
        self.waiting = None if waiting is None else waiting.waiting
        self._global_limits = global_limits
        # Without a concurrency limit the queue stays empty.
        self._has_leases = False
        self._prices: dict[str, dict[str, Price | None]] = {}
        self._priced = book.is_priced
        # Days since 1970, UTC; updated by the periodic sweep.
        self.today = book.today()

    def decide(self, x: Exchange, configured: RouteLimits) -> Awaitable[None] | None:
        """Take a request, its estimated tokens, a lease and the estimated cost: all of them, or refuse (RateLimited,
        BudgetExceeded, Overloaded). Returns an awaitable when a lease or the global limits must be waited for."""
        prepared = configured.pick(x)
        if prepared is None:
            return None
        global_limits = self._global_limits if prepared.is_shared else None
        if global_limits is not None and prepared.alone is not None and not global_limits.is_up:
            prepared = prepared.alone
        if prepared.lease is not None and self._waiting is not None:
            self._has_leases = True
            if self._waiting.count:
                # Earlier exchanges go first.
                waiting = self._waiting.wait(self, x, prepared, prepared.lease)
                return waiting if global_limits is None else global_limits.after(waiting, self, x, prepared)
        refusal = self.take(x, prepared, x.ready_ns)
        if refusal is None:
            return None if global_limits is None else global_limits.confirm(self, x, prepared)
        name = prepared.names[refusal.limit]
        if name.kind == "concurrency" and self._waiting is not None:
            waiting = self._waiting.wait(self, x, prepared, name)
            return waiting if global_limits is None else global_limits.after(waiting, self, x, prepared)
        raise self._book.error(name, refusal)

    def take(self, x: Exchange, prepared: Prepared, now_ns: int) -> Refusal | None:
        """Decide once, without waiting. Sets `x.reservation` when admitted, else returns the refusal."""
        principal = x.principal
        key = tenant = ""
        if principal is not None:
            key = principal.key
            tenant = principal.tenant
        answer = prepared.decide(
            x.limit_key,
            key if key else x.limit_key,
            tenant,
            x.model if not x.hides_model else UNSEEN,
            x.network,
            x.peek,
            x.body_bytes,
            self.price(x) if prepared.spends else None,
            now_ns,
            self.today,
        )
        if type(answer) is Reservation:
            x.reservation = answer
            return None
        return answer

    def follow(self, x: Exchange, prepared: Prepared, now_ns: int) -> Reservation:
        """Debit this host's rates for an exchange that the global limits admitted; never refuses. The result is settled
        like any reservation."""
        principal = x.principal
        key = tenant = ""
        if principal is not None:
            key = principal.key
            tenant = principal.tenant
        reservation: Reservation = prepared.limits.follow(
            x.limit_key,
            key if key else x.limit_key,
            tenant,
            x.model if not x.hides_model else UNSEEN,
            x.network,
            x.peek,
            x.body_bytes,
            now_ns,
        )
        return reservation

    def unrouted(self, x: Exchange) -> None:
        """Count an unrouted request; raise RateLimited when there were too many."""
        configured: RouteLimits = self._unrouted
        # A probe with a wrong method or credential counts for its own path, not as a client's request.
        path: str = x.head.path
        own = self.own.get("/admin/{operation:path}" if path.startswith("/admin/") else path)
        if own is not None:
            configured = own
        self._count(x, configured)

    def preflight(self, x: Exchange) -> None:
        """Count a preflight or `OPTIONS *`, which have no principal; raise RateLimited when there were too many."""
        self._count(x, self._preflights)

    def _count(self, x: Exchange, configured: RouteLimits) -> None:
        prepared = configured.pick(x)
        if prepared is not None:
            refusal = self.take(x, prepared, x.ready_ns)
            if refusal is not None:
                raise self._book.error(prepared.names[refusal.limit], refusal)

    def price(self, x: Exchange) -> Price | None:
        """The price of the exchange's tokens at its current provider; None when unknown."""
        if not self._priced or x.destination is None or not (x.model or x.hides_model):
            return None
        provider: str = x.destination.provider
        known = self._prices.get(provider)
        if known is None:
            known = self._prices[provider] = {}
        if x.model in known:
            return known[x.model]
        if len(known) >= MAX_REMEMBERED:
            del known[next(iter(known))]
        price = known[x.model] = self._book.price(provider, x.model)
        return price

    def cached_plan(self, x: Exchange) -> CachedLimits | None:
        """The limits for a cached plan. None when a decision depends on global limits."""
        configured: RouteLimits = x.route.limits
        prepared = configured.pick(x)
        if prepared is None:
            return CachedLimits(None, self.price(x))
        if prepared.is_shared:
            return None
        has_lease = prepared.lease is not None
        if has_lease:
            self._has_leases = True
        return CachedLimits(prepared.limits, self.price(x), prepared.spends, has_lease)

    def released(self) -> None:
        """Try the queue again: an exchange has released its lease."""
        if self._has_leases and self._waiting is not None and self._waiting.count:
            self._waiting.soon()
