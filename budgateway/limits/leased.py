"""Global limits without a round trip per request: a worker takes a share of each limit in advance."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from budgateway.limits.demand import Adjustment, Admission, Demand, Kind, LimitState, Release

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from budgateway.limits.redis_limits import Decision, Outcome, RedisLimits

# A share that was not used for this long is returned.
IDLE_S = 1.0
SWEEP_S = 0.25
SETTLE_S = 0.1  # settlements are collected for this long
MAX_SHARES = 100_000


class _Share:
    """A worker's share of one limit: debited in Redis, not yet used here."""

    __slots__ = ("asked", "demand", "left", "remaining", "reset_s", "size", "used_at")

    def __init__(self, demand: Demand, size: int) -> None:
        self.demand = demand
        self.size = size
        self.left = 0
        self.asked = False  # a top-up is in flight
        self.used_at = 0.0
        self.remaining = 0  # of the whole limit, by Redis' last reply
        self.reset_s = 0.0


class _Known:
    """An awaitable of an admission that is already known."""

    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __await__(self) -> Generator[None, None, Admission]:
        yield from ()
        return self._admission


class LeasedLimits:
    """Implements `SharedLimits` over `RedisLimits`.

    Every admission was debited in Redis before, so no sum exceeds what Redis granted. Only the timing is inexact: each
    worker holds up to `share` of each limit (when that is less than one unit: nothing, and decisions are exact) for up
    to a second. With W workers, a window of time may therefore admit `W * share * limit` more than the limit and one
    burst, and a worker may refuse while the others hold as much.
    """

    def __init__(self, exact: RedisLimits, share: float) -> None:
        self._exact = exact
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._shares: dict[str, _Share] = {}
        self._later: dict[Demand, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._settle_timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Start returning unused shares."""
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def close(self) -> None:
        """Return all shares and send pending settlements. Idempotent."""
        for timer in (self._timer, self._settle_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._settle_timer = None
        for share in list(self._shares.values()):
            self._return(share)
        self._flush()

    # ---------------------------------------------------------------- SharedLimits

    @property
    def is_up(self) -> bool:
        """True while Redis answers."""
        return self._exact.is_up

    def failure(self, demands: Sequence[Demand]) -> Outcome:
        """See `SharedLimits.failure`."""
        return self._exact.failure(demands)

    def take(self, demands: Sequence[Demand]) -> Admission | None:
        """Take all demands from this worker's shares; None when they do not suffice and Redis must `decide`."""
        found = []
        for demand in demands:
            share = self._shares.get(_name(demand))
            if share is None or share.left < max(demand.cost, 1):
                return None
            found.append(share)
        now = self._loop.time()
        lease = ""
        for demand, share in zip(demands, found):
            share.left -= demand.cost
            share.remaining = max(0, share.remaining - demand.cost)
            share.used_at = now
            if demand.kind is Kind.CONCURRENCY and demand.cost:
                lease = self._exact.worker
            if share.left * 2 < share.size and not share.asked:
                self._top_up(share)
        return Admission(-1, 0.0, tuple(LimitState(share.remaining, share.reset_s) for share in found), lease)

    def decide(self, demands: Sequence[Demand]) -> _Known | _Asked:
        """See `SharedLimits.decide`; no round trip while the shares last."""
        admission = self.take(demands)
        if admission is not None:
            return _Known(admission)
        shares = [self._share_of(demand) for demand in demands]
        extra = [0 if share is None else max(0, share.size - share.left) for share in shares]
        return _Asked(self, self._exact.begin(demands, extra))

    def settle(self, adjustments: Sequence[Adjustment]) -> None:
        """See `SharedLimits.settle`; adjustments of SETTLE_S are sent together."""
        for demand, delta in adjustments:
            self._later[demand._replace(cost=0)] = self._later.get(demand._replace(cost=0), 0) + delta
        if self._settle_timer is None and self._later:
            self._settle_timer = self._loop.call_later(SETTLE_S, self._flush)

    def went(self, demands: Sequence[Demand]) -> str:
        """See `SharedLimits.went`."""
        return self._exact.went(demands)

    def release(self, releases: Sequence[Release]) -> None:
        """See `SharedLimits.release`; a lease returns to the share when there is one with room."""
        for lease, keys in releases:
            for key in keys:
                share = self._shares.get(_LETTER + key)
                if share is not None and share.left < share.size:
                    share.left += 1
                else:
                    self._exact.release([Release(lease, (key,))])

    # ---------------------------------------------------------------- shares

    def told(self, decision: Decision, outcome: Outcome) -> Outcome:
        """Add the extra units of a reply to the shares. Without a reply, return `failure`."""
        if outcome is None:
            return self._exact.failure(decision.demands)
        if outcome.refused_by < 0 and decision.granted is not None:
            for demand, granted, state in zip(decision.demands, decision.granted, outcome.states):
                self._grant(demand, granted, state)
        return outcome

    def _grant(self, demand: Demand, granted: int, state: LimitState) -> None:
        share = self._share_of(demand)
        if share is not None:
            share.left += granted
            share.used_at = self._loop.time()
            share.remaining = state.remaining + share.left
            share.reset_s = state.reset_s
        elif granted:
            self._give(demand, granted)

    def _share_of(self, demand: Demand) -> _Share | None:
        """The share of a limit, created when new; None when it would be less than one unit, or there are MAX_SHARES."""
        name = _name(demand)
        share = self._shares.get(name)
        if share is None:
            size = int(self._share * (min(demand.limit, demand.burst) if demand.kind is Kind.RATE else demand.limit))
            if size < 1 or len(self._shares) >= MAX_SHARES:
                return None
            share = self._shares[name] = _Share(demand, size)
            share.used_at = self._loop.time()
        return share

    def _top_up(self, share: _Share) -> None:
        share.asked = True
        decision = self._exact.begin([share.demand._replace(cost=0)], [share.size - share.left])

        def answered(future: asyncio.Future[Outcome]) -> None:
            share.asked = False
            outcome = future.result()
            if outcome is not None and outcome.refused_by < 0 and decision.granted is not None:
                decision.claimed = True
                self._grant(share.demand, decision.granted[0], outcome.states[0])

        decision.future.add_done_callback(answered)

    def _return(self, share: _Share) -> None:
        self._shares.pop(_name(share.demand), None)
        if share.left:
            self._give(share.demand, share.left)
        share.left = 0

    def _give(self, demand: Demand, units: int) -> None:
        if demand.kind is Kind.CONCURRENCY:
            for _ in range(units):
                self._exact.release([Release(self._exact.worker, (demand.key,))])
        else:
            self._exact.settle([Adjustment(demand, -units)])

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        before = self._loop.time() - IDLE_S
        for share in [share for share in self._shares.values() if share.used_at < before and not share.asked]:
            self._return(share)

    def _flush(self) -> None:
        self._settle_timer = None
        later, self._later = self._later, {}
        self._exact.settle([Adjustment(demand, delta) for demand, delta in later.items()])


class _Asked:
    """An awaitable of a decision that Redis makes."""

    __slots__ = ("_decision", "_limits")

    def __init__(self, limits: LeasedLimits, decision: Decision) -> None:
        self._limits = limits
        self._decision = decision

    def __await__(self) -> Generator[object, None, Outcome]:
        outcome = yield from self._decision.future
        self._decision.claimed = True
        return self._limits.told(self._decision, outcome)


_LETTER = "c"


def _name(demand: Demand) -> str:
    """The dictionary key of a demand's share: with its kind, because keys of two kinds may be equal, and its period."""
    if demand.kind is Kind.CONCURRENCY:
        return _LETTER + demand.key
    return f"r{demand.key}" if demand.kind is Kind.RATE else f"s{demand.ends_s}:{demand.key}"
