"""A route's choice among its provider's upstreams: the native selector's, put into the exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from budgateway.errors import NoUpstream
from budgateway.native import VERDICT_FAILURE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from budgateway.exchange_cy import Exchange
    from budgateway.native import Selector


class Balancer:
    """Picks; the exchange holds the slot until it is released (its index is then -1)."""

    def __init__(self, selector: Selector, targets: Sequence[Any], provider: str) -> None:
        """`targets[i]` is where the selector's index `i` leads."""
        self.selector = selector
        self.targets = tuple(targets)
        self._pick = selector.pick
        self._release = selector.release
        self._provider = provider

    def next(self, x: Exchange) -> Awaitable[None] | None:
        """Choose the target of the first attempt; NoUpstream when none can be chosen."""
        self._choose(x, x.ready_ns)
        return None

    def next_after_failure(self, x: Exchange, now_ns: int) -> None:
        """Report the failed attempt and choose another target; NoUpstream when all were tried."""
        if x.index < 64:
            x.tried |= 1 << x.index
        self.release(x, VERDICT_FAILURE, now_ns)
        self._choose(x, now_ns)

    def release(self, x: Exchange, verdict: int, now_ns: int) -> None:
        """Give the slot back, and tell the breaker how it went."""
        self._release(x.index, verdict, now_ns)
        x.index = -1

    def _choose(self, x: Exchange, now_ns: int) -> None:
        index = self._pick(now_ns, x.tried)
        if index < 0:
            raise NoUpstream(f"no upstream of provider '{self._provider}' is available", retry_after_s=1.0)
        x.index = index
        x.target = self.targets[index]
