"""Queues of exchanges that wait while every upstream of their provider is full.

They are bounded, and first come, first served over all workers. An exchange waits in its worker. The segment
(`native.Queue`) shares two facts about each worker: its number of waiting exchanges, and the start of its longest wait.
A freed slot goes to the exchange that has waited longest: the worker that frees it serves its own first exchange, or
wakes (by eventfd) the worker whose first one is older.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import OrderedDict
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol

from budgateway import native
from budgateway.errors import NoUpstream, Overloaded

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from budgateway.errors import GatewayError
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.records import Provider

# Polls for what no eventfd signals: a timed-out wait, a breaker that closes, the slots of a worker that was killed.
POLL_S = 0.05
FULL = -2  # of Selector.pick
# Sets of upstreams that exchanges of one provider wait for; beyond that, they wait in the lane for all upstreams.
MAX_LANES = 16
# Separates a provider's name from its lane, in the segment.
LANE = "\x1f"


class Chooser(Protocol):
    """A route's choice among the provider's upstreams."""

    def try_next(self, x: Exchange, now_ns: int) -> int:
        """Return the index now held by the exchange; negative like Selector.pick."""
        ...


class Waiter:
    """One exchange in a lane; awaitable until it gets an upstream. Call `leave` when the exchange ends."""

    __slots__ = ("_done", "_lane", "chooser", "since_ns", "x")

    def __init__(self, lane: Lane, x: Exchange, chooser: Chooser, since_ns: int) -> None:
        self._lane = lane
        self._done: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self.x = x
        self.chooser = chooser
        self.since_ns = since_ns

    def __await__(self) -> Generator[object, None, None]:
        # A result, not an exception: asyncio would log an exception that is never retrieved.
        error = yield from self._done.__await__()
        if error is not None:
            raise error

    def end(self, error: GatewayError | None) -> None:
        """Resume the exchange, or refuse it with `error`."""
        self.x.waiter = None
        if not self._done.done():
            self._done.set_result(error)

    def leave(self) -> None:
        """Leave the queue; the exchange has ended."""
        self._lane.abandon(self)


class Lane:
    """The exchanges that wait for the same upstreams, in one worker: when the first gets none, none of them does."""

    def __init__(self, queue: Queue, ledger: native.Queue, wakeup_fds: Sequence[int]) -> None:
        self._queue = queue
        self._ledger = ledger
        self._wakeup_fds = wakeup_fds
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._poll: asyncio.TimerHandle | None = None

    @property
    def native(self) -> native.Queue:
        """Its native half, in which all workers count."""
        return self._ledger

    @property
    def depth(self) -> int:
        """The number of exchanges that wait, in all workers."""
        return self._ledger.depth

    @property
    def since_ns(self) -> int:
        """The start of this worker's longest wait, monotonic; 0 when none waits."""
        first = next(iter(self._waiting), None)
        return 0 if first is None else first.since_ns

    def is_busy(self) -> bool:
        """True when an exchange waits, here or in another worker: new ones must then queue behind it."""
        return bool(self._waiting) or self._ledger.elder(0, monotonic_ns()) >= 0

    def join(self, x: Exchange, chooser: Chooser) -> Waiter:
        """Join at the end. Overloaded when the queue is full."""
        queue = self._queue
        if not self._ledger.join(queue.room_for(self)):
            raise Overloaded(
                f"every upstream of provider '{queue.name}' is at its limit, and {queue.limit} exchanges wait already",
                retry_after_s=self._retry_after_s(),
            )
        waiter = Waiter(self, x, chooser, monotonic_ns())
        x.waiter = waiter
        self._waiting[waiter] = None
        if len(self._waiting) == 1:
            self._ledger.say_first(waiter.since_ns)
            self._poll = asyncio.get_running_loop().call_later(POLL_S, self._look)
            # A slot freed since the caller looked at the upstreams was offered to no one.
            self.serve()
        return waiter

    def abandon(self, waiter: Waiter) -> None:
        """Remove an exchange that no longer waits."""
        if waiter in self._waiting:
            self._take_out(waiter, native.WAIT_GONE)
            self.serve()

    def serve(self) -> None:
        """Give free slots to the exchanges that have waited longest, here or, by eventfd, in another worker."""
        now_ns = monotonic_ns()
        since_ns = 0
        while self._waiting:
            waiter = next(iter(self._waiting))
            since_ns = waiter.since_ns
            if self._ledger.elder(since_ns, now_ns) >= 0:
                break
            index = waiter.chooser.try_next(waiter.x, now_ns)
            if index == FULL:
                return
            self._take_out(waiter, native.WAIT_SERVED if index >= 0 else native.WAIT_GONE)
            waiter.end(None if index >= 0 else self._nobody())
            since_ns = 0
        elder = self._ledger.elder(since_ns, now_ns)
        if elder >= 0 and self._wakeup_fds:
            with contextlib.suppress(BlockingIOError):  # the counter is full: the worker is already signalled
                os.eventfd_write(self._wakeup_fds[elder], 1)

    def _look(self) -> None:
        """Look again every POLL_S while an exchange waits, even after an error."""
        try:
            self._look_around()
        finally:
            self._poll = asyncio.get_running_loop().call_later(POLL_S, self._look) if self._waiting else None

    def _look_around(self) -> None:
        timeout_s = self._queue.timeout_s
        oldest_ns = monotonic_ns() - int(timeout_s * 1e9)
        while self._waiting and (waiter := next(iter(self._waiting))).since_ns <= oldest_ns:
            retry_after_s = self._retry_after_s()
            self._take_out(waiter, native.WAIT_TIMED_OUT)
            waiter.end(
                Overloaded(
                    f"no upstream of provider '{self._queue.name}' had room within {timeout_s:g} s",
                    retry_after_s=retry_after_s,
                )
            )
        self.serve()

    def _take_out(self, waiter: Waiter, ending: int) -> None:
        was_first = next(iter(self._waiting)) is waiter
        del self._waiting[waiter]
        self._ledger.leave(ending, monotonic_ns() - waiter.since_ns)
        if was_first:
            self._ledger.say_first(self.since_ns)
        if not self._waiting and self._poll is not None:
            self._poll.cancel()
            self._poll = None

    def _retry_after_s(self) -> float:
        """The seconds that the first exchange has waited, at least 1: the queue's present delay."""
        since_ns = self.since_ns
        return 1.0 if since_ns == 0 else max(1.0, (monotonic_ns() - since_ns) / 1e9)

    def _nobody(self) -> NoUpstream:
        return NoUpstream(f"no upstream of provider '{self._queue.name}' is available", retry_after_s=1.0)


class Queue:
    """The queue of one provider, in one worker. Survives a reload: earlier exchanges go first under any configuration.

    It has a lane for each set of upstreams that exchanges wait for, because upstreams may serve different models: an
    exchange that waits for a full upstream does not block one that could use another.
    """

    def __init__(self, provider: Provider, segment: native.Segment, worker: int, wakeup_fds: Sequence[int]) -> None:
        """`wakeup_fds`: an eventfd for each row of the segment; empty with a single worker."""
        self._segment = segment
        self._worker = worker
        self._wakeup_fds = wakeup_fds
        self.adopt(provider)
        self._lanes = {0: self._lane(0)}

    def adopt(self, provider: Provider) -> None:
        """Follow a reload."""
        self.name = provider.name
        self.limit = provider.max_queue
        self.timeout_s = provider.queue_timeout_s

    @property
    def depth(self) -> int:
        """The number of exchanges that wait, in all workers."""
        return sum(lane.depth for lane in self._lanes.values())

    def lane(self, without: int) -> Lane:
        """The lane of exchanges that may not use the upstreams `without` (a mask like Selector.pick's)."""
        lane = self._lanes.get(without)
        if lane is None:
            if len(self._lanes) >= MAX_LANES:
                return self._lanes[0]
            for other in self._lanes.values():
                other.native.add_sibling()
            lane = self._lanes[without] = self._lane(without)
        return lane

    def room_for(self, lane: Lane) -> int:
        """The number of exchanges that may wait in that lane: the limit is over all lanes."""
        return self.limit if len(self._lanes) == 1 else max(0, self.limit - (self.depth - lane.depth))

    def serve(self) -> None:
        """Serve the lanes; the one with the longest wait goes first."""
        if len(self._lanes) == 1:
            self._lanes[0].serve()
            return
        for lane in sorted(self._lanes.values(), key=lambda lane: lane.since_ns):
            lane.serve()

    def _lane(self, without: int) -> Lane:
        name = f"{self.name}{LANE}{without:x}" if without else self.name
        lane = native.Queue(self._segment, self._worker, name)
        if without:
            lane.add_sibling()
        return Lane(self, lane, self._wakeup_fds)


class Queues:
    """The queues of one worker, by provider."""

    def __init__(self, segment: native.Segment, worker: int, wakeup_fds: Sequence[int] = ()) -> None:
        self._segment = segment
        self._worker = worker
        self._wakeup_fds = wakeup_fds
        self._queues: dict[str, Queue] = {}

    def of(self, provider: Provider) -> Queue | None:
        """The provider's queue; None when none of its upstreams has a `max_in_flight`."""
        if not any(upstream.max_in_flight for upstream in provider.upstreams):
            return None
        queue = self._queues.get(provider.name)
        if queue is None:
            queue = self._queues[provider.name] = Queue(provider, self._segment, self._worker, self._wakeup_fds)
        return queue

    def adopt(self, providers: Iterable[Provider]) -> None:
        """Follow a reload. Exchanges that wait for a removed provider keep waiting under their old configuration."""
        for provider in providers:
            if provider.name in self._queues:
                self._queues[provider.name].adopt(provider)

    def rung(self) -> None:
        """Serve the queues: another worker freed a slot, and an exchange of ours has waited longest."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wakeup_fds[self._worker])
        for queue in tuple(self._queues.values()):
            queue.serve()
