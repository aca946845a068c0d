"""Request rates: one gateway-wide, one by route, both counted by principal (or by address while anonymous)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from budgateway.exchange_cy import Exchange
    from budgateway.native import RateLimit


class RequestLimits:
    """All or nothing: what the route refuses is given back to the gateway-wide bucket."""

    def __init__(self, overall: RateLimit | None) -> None:
        self._take = None if overall is None else overall.take
        self._refund = None if overall is None else overall.refund

    def admit(self, x: Exchange) -> None:
        """Debit the gateway-wide rate; RateLimited when it is used up."""
        if self._take is not None:
            left = self._take(x.limit_key, 1, x.ready_ns)
            if left < 0:
                raise RateLimited("request rate exceeded: the gateway's limit", retry_after_s=-left / 1e9)

    def reserve(self, x: Exchange, take: Callable[[str, int, int], int], name: str) -> Awaitable[None] | None:
        """Debit (`RateLimit.take`) the rate of the route called `name`; RateLimited when it is used up."""
        left = take(x.limit_key, 1, x.ready_ns)
        if left < 0:
            if self._refund is not None:
                self._refund(x.limit_key, 1)
            raise RateLimited(f"request rate exceeded: the limit of route '{name}'", retry_after_s=-left / 1e9)
        return None
