"""The operator's limits: their selection for an exchange, and the errors when one refuses."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from budgateway import native
from budgateway.errors import BudgetExceeded, GatewayError, Overloaded, RateLimited
from budgateway.limits.named import ALLOWANCE, BITS, GATEWAY, OWN, Named
from budgateway.limits.prepared_cy import Prepared, RouteLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from budgateway.records import Allowance, LimitRule, Principal, Route, Settings

_PREFLIGHTS = "\1"  # not a valid route name
# Per address, which may be a proxy with many clients behind it: bounds floods, does not slow browsers.
PREFLIGHTS_A_MINUTE = 60_000
PREFLIGHT_BURST = 6_000
# Requests a minute, and burst, from one address to the gateway's own paths: enough for a probe every few milliseconds,
# not more than a supervisor can answer. Clients' limits do not apply to them.
_OWN_RATES = {"open": (60_000, 10_000), "metrics": (6_000, 2_000), "admin": (6_000, 2_000)}
S_PER_DAY = 86_400
# A limit per client refuses with 429; a limit shared by everybody is the gateway's own shortage: 503.
_WHO = native.BY_USER | native.BY_KEY | native.BY_TENANT | native.BY_ADDRESS


class Rulebook:
    """All limits of one configuration, for one worker. Off the hot path: stages cache its results."""

    def __init__(self, settings: Settings, segment: native.Segment, worker: int) -> None:
        self._settings = settings
        self._segment = segment
        self._worker = worker
        self._routes = {route.name: route for route in settings.routes}
        self._providers = {provider.name: provider for provider in settings.providers}
        self.is_priced = bool(settings.prices)

    def today(self) -> int:
        """Days since 1970, UTC; `limits.calendar` keeps them for all workers."""
        return self._segment.today or int(time.time()) // S_PER_DAY

    def of_route(self, route: Route) -> RouteLimits:
        """The limits of a route."""
        rules = [rule for rule in self._settings.limit_rules if self._concerns(rule, route.name)]
        by_model = any(rule.models for rule in rules)
        by_principal = any(rule.tenants or rule.roles for rule in rules)
        return RouteLimits(self, route.name, by_model, by_principal)

    def unrouted(self) -> RouteLimits:
        """The limits of unrouted requests."""
        return RouteLimits(self, "", False, False)

    def of_own(self, access: str) -> RouteLimits:
        """The limits of the gateway's own paths with this `access`. The list of models is for clients: it counts like
        their requests, but rules do not apply. The rest (probes, metrics, the admin API) has limits of its own."""
        return RouteLimits(self, OWN + access, False, False, is_own=access in _OWN_RATES)

    def of_preflights(self) -> RouteLimits:
        """The limit of preflights and `OPTIONS *`: no rule sets it, and they count for no other limit."""
        return RouteLimits(self, _PREFLIGHTS, False, False)

    def prepare(self, route: str, model: str | None, principal: Principal | None) -> Prepared | None:
        """Compile the limits of such exchanges; None when there are none. `model` is None when it cannot be read."""
        names = tuple(self._names(route, model, principal))
        if not names:
            return None
        store = self._settings.store
        if store is None or route in ("", _PREFLIGHTS) or route.startswith(OWN):
            return self._prepared(route, names)
        # While Redis is down, each gateway admits its share.
        parts = store.replicas
        alone = self._prepared(route, tuple(name.divided(parts) for name in names)) if parts > 1 else None
        return self._prepared(route, names, is_shared=True, alone=alone)

    def _prepared(
        self, route: str, names: tuple[Named, ...], *, is_shared: bool = False, alone: Prepared | None = None
    ) -> Prepared:
        settings = self._settings.limits
        limits = native.LimitSet(
            self._segment,
            self._worker,
            route,
            [(name.key, name.by, name.kind, name.amount, name.period, name.burst) for name in names],
            output_tokens=settings.output_tokens,
            headers=settings.headers and not names[0].name.startswith(OWN),
        )
        spends = self.is_priced and any(name.kind == "spend" for name in names)
        return Prepared(limits, names, spends=spends, route=route, is_shared=is_shared, alone=alone)

    def error(self, name: Named, refusal: native.Refusal, *, is_exact: bool = False) -> GatewayError:
        """The error for a refused client: names the limit, and when to retry. `is_exact`: a budget's wait counts from
        now, not in whole days."""
        words = name.words()
        if name.kind == "concurrency":
            return self.busy(name, self.too_many(name))
        wait_s = refusal.wait_ns / 1e9
        if name.kind == "spend":
            # The core counts whole days: subtract the part of today that has passed.
            if not is_exact:
                wait_s = max(1.0, wait_s - time.time() % S_PER_DAY)
            return BudgetExceeded(f"budget used up: {words}", retry_after_s=wait_s)
        what = "request" if name.kind == "requests" else "token"
        if refusal.never:
            error = RateLimited(
                f"request too large: it needs more tokens than the limit ever admits: {words}", param="max_tokens"
            )
            error.lines = b"x-should-retry: false\r\n"
        else:
            error = RateLimited(f"{what} rate exceeded: {words}", retry_after_s=wait_s)
        error.lines += refusal.lines(name.kind)
        return error

    def too_many(self, name: Named) -> str:
        """The message when no lease is free."""
        return f"too many requests at a time: {name.words()}"

    def busy(self, name: Named, message: str) -> GatewayError:
        """The error when no lease is free: RateLimited for a limit per client, else Overloaded."""
        if name.by & _WHO:
            return RateLimited(message, retry_after_s=1.0)
        return Overloaded(message, retry_after_s=1.0)

    def price(self, provider: str, model: str) -> native.Price | None:
        """The price of a model's tokens at a provider; None when unknown. The first matching price wins: one without a
        provider matches the client's model name, one with a provider matches the name sent upstream. The model ""
        matches only prices for all models."""
        record = self._providers.get(provider)
        told = model if record is None else record.upstream_model(model)
        for price in self._settings.prices:
            if price.provider not in ("", provider):
                continue
            if fnmatchcase(model if price.provider == "" else told, price.model):
                return native.Price(price.input, price.cached, price.output, max_output_tokens=price.max_output_tokens)
        return None

    def _concerns(self, rule: LimitRule, route: str) -> bool:
        return not rule.routes or any(fnmatchcase(route, pattern) for pattern in rule.routes)

    def _applies(self, rule: LimitRule, route: str, model: str | None, principal: Principal | None) -> bool:
        if not self._concerns(rule, route):
            return False
        # A model that cannot be read may be one of the rule's.
        if rule.models and model is not None and not any(fnmatchcase(model, pattern) for pattern in rule.models):
            return False
        tenant, roles = ("", ()) if principal is None else (principal.tenant, principal.roles)
        if rule.tenants and tenant not in rule.tenants:
            return False
        return not rule.roles or any(role in rule.roles for role in roles)

    def _names(self, route: str, model: str | None, principal: Principal | None) -> Iterator[Named]:
        if route == _PREFLIGHTS:
            yield Named("preflights", native.BY_ADDRESS, "requests", PREFLIGHTS_A_MINUTE, "minute", PREFLIGHT_BURST)
            return
        if (rates := _OWN_RATES.get(route.removeprefix(OWN))) is not None and route.startswith(OWN):
            yield Named(route, native.BY_ADDRESS, "requests", rates[0], "minute", rates[1])
            return
        overall = self._settings.rate_limit
        if overall is not None:
            yield Named(GATEWAY, native.BY_USER, "requests", overall.per_minute, "minute", overall.burst)
        record = self._routes.get(route)
        if record is not None and record.rate_limit:
            burst = record.rate_burst or max(1, record.rate_limit // 10)
            yield Named(f"route:{record.name}", native.BY_USER, "requests", record.rate_limit, "minute", burst)
        if principal is not None and principal.allowance is not None:
            by = native.BY_KEY if principal.key else native.BY_USER
            yield from named(ALLOWANCE, by, principal.allowance)
        for rule in self._settings.limit_rules:
            if route == "" and (rule.routes or rule.models or "model" in rule.by or "route" in rule.by):
                continue
            if (record is not None or route == "") and self._applies(rule, route, model, principal):
                by = sum(BITS[word] for word in rule.by)
                limits = named(rule.name, by, rule.allowance)
                yield from (one for one in limits if route != "" or one.kind == "requests")


def named(name: str, by: int, allowance: Allowance) -> Iterator[Named]:
    """The limits of an allowance."""
    minute = allowance.requests_per_minute
    for amount, period in (
        (minute, "minute"),
        (allowance.requests_per_hour, "hour"),
        (allowance.requests_per_day, "day"),
    ):
        if amount:
            # A rate per minute already spreads requests out: longer rates may then be used in one burst.
            spread = period == "minute" or not minute
            burst = allowance.burst or max(1, amount // 10) if spread else amount
            yield Named(name, by, "requests", amount, period, burst)
    for amount, period in ((allowance.tokens_per_minute, "minute"), (allowance.tokens_per_day, "day")):
        if amount:
            yield Named(name, by, "tokens", amount, period, amount)
    if allowance.concurrency:
        yield Named(name, by, "concurrency", allowance.concurrency, "", 0)
    if allowance.budget_usd:
        micros = max(1, round(allowance.budget_usd * 1e6))
        yield Named(name, by, "spend", micros, allowance.budget_period, 0)
