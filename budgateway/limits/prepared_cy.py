"""Compiled sets of limits, and their selection for an exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol

    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.limits.named import Named
    from budgateway.native import LimitSet, Refusal, Reservation
    from budgateway.records import Principal

    class Preparing(Protocol):
        """The rules, which compile a set of limits."""

        def prepare(self, route: str, model: str | None, principal: Principal | None) -> Prepared | None:
            """The limits of a principal's requests for a model; None when there are none."""
            ...

    class Deciding(Protocol):
        """The limits stage, as exchanges that wait for a decision see it."""

        def take(self, x: Exchange, prepared: Prepared, now_ns: int) -> Refusal | None:
            """Decide once, without waiting."""
            ...

        def follow(self, x: Exchange, prepared: Prepared, now_ns: int) -> Reservation:
            """Debit this host's rates for an admitted exchange."""
            ...


UNSEEN = "other"  # the model name in limits by model when a request's model cannot be read
MAX_REMEMBERED = 4096  # combinations of class and model, or prices of a provider; the oldest makes room


class Prepared:
    """A compiled set of limits: the native decision, and the name of each limit."""

    def __init__(
        self,
        limits: LimitSet,
        names: tuple[Named, ...],
        *,
        spends: bool,
        route: str = "",
        is_shared: bool = False,
        alone: Prepared | None = None,
    ) -> None:
        """`is_shared`: they are global limits. `alone`: the limits that apply while the store is down."""
        self.limits = limits
        self.decide = limits.decide
        self.names = names
        self.spends = spends
        self.route = route
        self.is_shared = is_shared
        self.alone = alone
        self.lease = next((name for name in names if name.kind == "concurrency"), None)


class RouteLimits:
    """Selects the limits of an exchange on one route, with a cache. Limits that all principals share need no lookup."""

    def __init__(
        self, book: Preparing, route: str, by_model: bool, by_principal: bool, *, is_own: bool = False
    ) -> None:
        """`is_own`: the route is one of the gateway's own, to which clients' limits do not apply."""
        self._book = book
        self.route = route
        self.is_own = is_own
        self._by_model = by_model
        self._is_shared = not (by_model or by_principal)
        self._common = book.prepare(route, "", None) if self._is_shared else None
        self._remembered: dict[tuple[int, str | None], Prepared | None] = {}

    def pick(self, x: Exchange) -> Prepared | None:
        """The limits of this exchange; None when it has none."""
        principal = x.principal
        if self._is_shared and (principal is None or principal.allowance is None):
            return self._common
        model: str | None = ""
        if self._by_model:
            model = None if x.hides_model else x.model
        key = (0 if x.verified is None else x.verified.class_number, model)
        if key in self._remembered:
            return self._remembered[key]
        prepared = self._book.prepare(self.route, model, principal)
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = prepared
        return prepared
