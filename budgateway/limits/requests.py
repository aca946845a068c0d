"""Request rates: one gateway-wide, one by route, both counted by principal (or by address while anonymous)."""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING

from budgateway.errors import RateLimited

if TYPE_CHECKING:
    from budgateway.exchange_cy import Exchange
    from budgateway.native import RateLimit


class RequestLimits:
    """All or nothing: what the route refuses is given back to the gateway-wide bucket."""

    __slots__ = ("_overall",)

    def __init__(self, overall: RateLimit | None) -> None:
        self._overall = overall

    def admit(self, x: Exchange) -> None:
        """Debit the gateway-wide rate; RateLimited when it is used up."""
        if self._overall is not None:
            left = self._overall.take(x.client if x.principal is None else x.principal.id, 1, monotonic_ns())
            if left < 0:
                raise RateLimited("request rate exceeded: the gateway's limit", retry_after_s=-left / 1e9)

    def reserve(self, x: Exchange) -> None:
        """Debit the route's rate; RateLimited when it is used up."""
        limit = x.route.limit
        if limit is not None:
            key = x.client if x.principal is None else x.principal.id
            left = limit.take(key, 1, monotonic_ns())
            if left < 0:
                if self._overall is not None:
                    self._overall.refund(key, 1)
                raise RateLimited(
                    f"request rate exceeded: the limit of route '{x.route.name}'", retry_after_s=-left / 1e9
                )
