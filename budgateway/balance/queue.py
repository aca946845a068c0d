"""Where exchanges wait while every upstream of their provider is full: bounded, first come first served, over all workers.

An exchange waits in its worker. What the workers know of each other is in the segment (`native.Queue`): how many wait,
and since when the first one of each does. A place that becomes free goes to whoever has waited longest: the worker that
gives it back serves its own first exchange, or rings the bell (an eventfd) of the worker whose first one is older.
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
    from budgateway.exchange_cy import Exchange
    from budgateway.records import Provider

# What nobody rings for: a wait that is over, a breaker that closes, the places of a worker that was killed.
POLL_S = 0.05
FULL = -2  # of Selector.pick
# Sets of upstreams that exchanges of one provider wait for; who comes with another one waits with those who may go anywhere.
MAX_LANES = 16
# Between a provider's name and its lane, in the segment.
LANE = "\x1f"


class Chooser(Protocol):
    """A route's choice among the provider's upstreams."""

    def try_next(self, x: Exchange, now_ns: int) -> int:
        """The index now held by the exchange; negative as of Selector.pick."""
        ...


class Waiter:
    """One exchange's place in a lane; awaitable until there is an upstream. `leave` whenever the exchange ends."""

    __slots__ = ("_done", "_lane", "chooser", "since_ns", "x")

    def __init__(self, lane: Lane, x: Exchange, chooser: Chooser, since_ns: int) -> None:
        self._lane = lane
        self._done: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self.x = x
        self.chooser = chooser
        self.since_ns = since_ns

    def __await__(self) -> Generator[object, None, None]:
        # A result, not an exception: one that nobody is left to hear would be complained about.
        error = yield from self._done.__await__()
        if error is not None:
            raise error

    def end(self, error: GatewayError | None) -> None:
        """Let the exchange go on, or refuse it."""
        self.x.waiter = None
        if not self._done.done():
            self._done.set_result(error)

    def leave(self) -> None:
        """The exchange ended: nobody is behind it for its sake."""
        self._lane.abandon(self)


class Lane:
    """Those who wait for the same upstreams, in one worker: what the first one cannot get, none of them can."""

    def __init__(self, queue: Queue, ledger: native.Queue, bells: Sequence[int]) -> None:
        self._queue = queue
        self._ledger = ledger
        self._bells = bells
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._poll: asyncio.TimerHandle | None = None

    @property
    def depth(self) -> int:
        """How many wait, in all workers together."""
        return self._ledger.depth

    @property
    def since_ns(self) -> int:
        """Since when the first one of this worker waits; 0 when nobody does."""
        first = next(iter(self._waiting), None)
        return 0 if first is None else first.since_ns

    def is_busy(self) -> bool:
        """Whether anybody waits, here or in another worker: then who comes now is behind them."""
        return bool(self._waiting) or self._ledger.elder(0, monotonic_ns()) >= 0

    def join(self, x: Exchange, chooser: Chooser) -> Waiter:
        """A place at the end. Overloaded when the queue is full."""
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
            # What was given back between the look at the upstreams and here was offered to nobody.
            self.serve()
        return waiter

    def abandon(self, waiter: Waiter) -> None:
        """Take one out that does not wait any more."""
        if waiter in self._waiting:
            self._take_out(waiter, native.WAIT_GONE)
            self.serve()

    def serve(self) -> None:
        """Something may be free: give it to whoever has waited longest."""
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
        if elder >= 0 and self._bells:
            with contextlib.suppress(BlockingIOError):  # it has been ringing for long
                os.eventfd_write(self._bells[elder], 1)

    def _look(self) -> None:
        """Now and then, while anybody waits: whatever goes wrong with one who does."""
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
        """As long as the first one has waited: what the queue takes at present."""
        since_ns = self.since_ns
        return 1.0 if since_ns == 0 else max(1.0, (monotonic_ns() - since_ns) / 1e9)

    def _nobody(self) -> NoUpstream:
        return NoUpstream(f"no upstream of provider '{self._queue.name}' is available", retry_after_s=1.0)


class Queue:
    """One provider's, in one worker. Outlives a reload: who came first goes first under any configuration.

    It has a lane for each set of upstreams that exchanges wait for, as some serve other models than others: who waits
    for a full one does not stand in the way of who could go to another.
    """

    def __init__(self, provider: Provider, segment: native.Segment, worker: int, bells: Sequence[int]) -> None:
        """`bells`: an eventfd for each row of the segment; empty where there is no other worker."""
        self._segment = segment
        self._worker = worker
        self._bells = bells
        self.adopt(provider)
        self._lanes = {0: self._lane(0)}

    def adopt(self, provider: Provider) -> None:
        """Follow a reload."""
        self.name = provider.name
        self.limit = provider.max_queue
        self.timeout_s = provider.queue_timeout_s

    @property
    def depth(self) -> int:
        """How many wait, in all workers together."""
        return sum(lane.depth for lane in self._lanes.values())

    def lane(self, without: int) -> Lane:
        """The lane of those who may not go to some upstreams (a mask, as Selector.pick takes it)."""
        lane = self._lanes.get(without)
        if lane is None:
            if len(self._lanes) >= MAX_LANES:
                return self._lanes[0]
            lane = self._lanes[without] = self._lane(without)
        return lane

    def room_for(self, lane: Lane) -> int:
        """How many may wait in that lane, as the limit is over all lanes."""
        return self.limit if len(self._lanes) == 1 else max(0, self.limit - (self.depth - lane.depth))

    def serve(self) -> None:
        """Something may be free: those who have waited longest are asked first."""
        if len(self._lanes) == 1:
            self._lanes[0].serve()
            return
        for lane in sorted(self._lanes.values(), key=lambda lane: lane.since_ns):
            lane.serve()

    def _lane(self, without: int) -> Lane:
        name = f"{self.name}{LANE}{without:x}" if without else self.name
        return Lane(self, native.Queue(self._segment, self._worker, name), self._bells)


class Queues:
    """The queues of one worker, by provider."""

    def __init__(self, segment: native.Segment, worker: int, bells: Sequence[int] = ()) -> None:
        self._segment = segment
        self._worker = worker
        self._bells = bells
        self._queues: dict[str, Queue] = {}

    def of(self, provider: Provider) -> Queue | None:
        """The provider's queue; None for one whose upstreams take whatever comes."""
        if not any(upstream.max_in_flight for upstream in provider.upstreams):
            return None
        queue = self._queues.get(provider.name)
        if queue is None:
            queue = self._queues[provider.name] = Queue(provider, self._segment, self._worker, self._bells)
        return queue

    def adopt(self, providers: Iterable[Provider]) -> None:
        """Follow a reload. Who waits for a provider that is gone waits on, under the configuration it came with."""
        for provider in providers:
            if provider.name in self._queues:
                self._queues[provider.name].adopt(provider)

    def rung(self) -> None:
        """Another worker gave back a place that one of ours has waited for longest."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bells[self._worker])
        for queue in tuple(self._queues.values()):
            queue.serve()
