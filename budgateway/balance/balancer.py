"""A route's choice among its provider's upstreams: the native selector's, put into the exchange."""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from budgateway.errors import NoUpstream
from budgateway.native import VERDICT_FAILURE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.exchange_cy import Exchange
    from budgateway.native import Selector


class Balancer:
    """Picks; the exchange holds the slot until `release` (its index is then -1)."""

    __slots__ = ("_pick", "_provider", "release", "targets")

    def __init__(self, selector: Selector, targets: Sequence[Any], provider: str) -> None:
        """`targets[i]` is where the selector's index `i` leads."""
        self._pick = selector.pick
        self.release = selector.release
        self.targets = tuple(targets)
        self._provider = provider

    def next(self, x: Exchange) -> None:
        """Choose the target of the first attempt; NoUpstream when none can be chosen."""
        index = self._pick(monotonic_ns(), 0)
        if index < 0:
            raise self._none_left()
        x.balancer = self
        x.index = index
        x.target = self.targets[index]

    def next_after_failure(self, x: Exchange, now_ns: int) -> None:
        """Report the failed attempt and choose another target; NoUpstream when all were tried."""
        self.release(x.index, VERDICT_FAILURE, now_ns)
        if x.index < 64:
            x.tried |= 1 << x.index
        x.index = -1
        index = self._pick(now_ns, x.tried)
        if index < 0:
            raise self._none_left()
        x.index = index
        x.target = self.targets[index]

    def _none_left(self) -> NoUpstream:
        return NoUpstream(f"no upstream of provider '{self._provider}' is available", retry_after_s=1.0)
