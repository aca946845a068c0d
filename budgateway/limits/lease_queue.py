"""The queue for concurrency leases: bounded, and fair among principals."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from time import monotonic_ns
from typing import TYPE_CHECKING

from budgateway import native

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from budgateway.errors import GatewayError
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.limits.named import Named
    from budgateway.limits.prepared_cy import Deciding, Prepared
    from budgateway.limits.rules import Rulebook

# Other workers do not announce the end of their leases: poll this often while the queue is not empty.
POLL_S = 0.01
# Refusals in one pass over the queue; the waiters behind them get the next pass.
MAX_REFUSED = 16
# Limits of one principal only: when one of these is used up, others need not wait behind that principal.
_OWN = native.BY_USER | native.BY_KEY


class Waiter:
    """An exchange in the queue, and the limit that keeps it there."""

    __slots__ = ("done", "limits", "name", "prepared", "timer", "x")

    def __init__(self, limits: Deciding, x: Exchange, prepared: Prepared, name: Named) -> None:
        loop = asyncio.get_running_loop()
        self.limits = limits
        self.x = x
        self.prepared = prepared
        self.name = name
        self.done: asyncio.Future[None] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None


class LeaseQueue:
    """The queue of one worker and configuration. Principals take turns; exchanges of one principal are served in order.

    Waiters are tried again whenever a lease of this worker ends, and every POLL_S for leases of other workers. Each try
    repeats the whole decision: a rate that was used up meanwhile refuses at once.
    """

    def __init__(self, book: Rulebook, size: int, timeout_s: float) -> None:
        self._book = book
        self._size = size
        self._timeout_s = timeout_s
        self._turns: OrderedDict[str, deque[Waiter]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False
        self.count = 0
        self.waiting = native.WaitingCount()

    def wait(self, limits: Deciding, x: Exchange, prepared: Prepared, name: Named) -> Awaitable[None]:
        """Queue for the limit `name`; the awaitable raises when the exchange is refused. Raises at once (RateLimited,
        Overloaded) when the queue is full."""
        if self.count >= self._size:
            raise self._book.busy(name, f"{self._book.too_many(name)}; {self.count} are waiting already")
        waiter = Waiter(limits, x, prepared, name)
        waiter.timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire, waiter)
        waiter.done.add_done_callback(lambda _: self._leave(waiter))
        self._turns.setdefault(x.limit_key, deque()).append(waiter)
        self.count += 1
        self.waiting.set(self.count)
        self.soon()
        return waiter.done

    def soon(self) -> None:
        """Try the queue in the next turn of the loop."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            self._serve()
        finally:
            # An error with one waiter must not stop the polling for the others.
            if self.count and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(POLL_S, self._look)

    def _serve(self) -> None:
        """Admit waiters that fit, one per principal in turns, until none does."""
        refused = 0
        moved = True
        while moved:
            moved = False
            for key in tuple(self._turns):
                waiter = self._turns[key][0]
                went = self._goes(waiter)
                if key in self._turns and (went or waiter.name.by & _OWN):
                    self._turns.move_to_end(key)
                moved |= went
                refused += not went
                if refused >= MAX_REFUSED:
                    return

    def _goes(self, waiter: Waiter) -> bool:
        """Try one waiter; True when it left the queue: admitted, refused by another limit, or already gone."""
        if not waiter.done.done() and not waiter.x.closed:
            refusal = waiter.limits.take(waiter.x, waiter.prepared, monotonic_ns())
            if refusal is None:
                waiter.done.set_result(None)
            else:
                name = waiter.prepared.names[refusal.limit]
                if name.kind == "concurrency":
                    waiter.name = name
                    return False
                _refuse(waiter, self._book.error(name, refusal))
        self._leave(waiter)
        return True

    def _expire(self, waiter: Waiter) -> None:
        if not waiter.done.done():
            waited = f"{self._book.too_many(waiter.name)}; waited {self._timeout_s:g} s"
            _refuse(waiter, self._book.busy(waiter.name, waited))
        self._leave(waiter)

    def _leave(self, waiter: Waiter) -> None:
        if waiter.timer is None:
            return
        waiter.timer.cancel()
        waiter.timer = None
        self.count -= 1
        self.waiting.set(self.count)
        key = waiter.x.limit_key
        line = self._turns[key]
        line.remove(waiter)
        if not line:
            del self._turns[key]


def _refuse(waiter: Waiter, error: GatewayError) -> None:
    waiter.done.set_exception(error)
    # Mark the exception as retrieved, or asyncio logs it when the waiter is gone.
    waiter.done.exception()
