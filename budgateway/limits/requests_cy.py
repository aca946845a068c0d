"""Request rates: one gateway-wide, one by route, both counted by principal (or by address while anonymous)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.errors import RateLimited

if TYPE_CHECKING:
    from budgateway.exchange_cy import Exchange
    from budgateway.native import RateLimit


class RequestLimits:
    """All or nothing: what the route refuses is given back to the gateway-wide bucket."""

    def __init__(self, overall: RateLimit | None) -> None:
        self._overall = overall

    def admit(self, x: Exchange) -> None:
        """Debit the gateway-wide rate; RateLimited when it is used up."""
        if self._overall is not None:
            left = self._overall.take(x.limit_key, 1, x.ready_ns)
            if left < 0:
                raise RateLimited("request rate exceeded: the gateway's limit", retry_after_s=-left / 1e9)

    def reserve(self, x: Exchange, limit: RateLimit, name: str) -> None:
        """Debit the rate of the route called `name`; RateLimited when it is used up."""
        left = limit.take(x.limit_key, 1, x.ready_ns)
        if left < 0:
            if self._overall is not None:
                self._overall.refund(x.limit_key, 1)
            raise RateLimited(f"request rate exceeded: the limit of route '{name}'", retry_after_s=-left / 1e9)
