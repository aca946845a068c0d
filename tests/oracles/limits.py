"""Limits as one would explain them: look at all, take from all or from none, settle by what it came to."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, field
from fractions import Fraction

from oracles.gcra import TokenBuckets

from budgateway import native

NS_PER_DAY = 86_400 * 10**9
PERIOD_MINUTES = {"minute": 1, "hour": 60}
Limit = tuple[str, int, str, int, str, int]  # as `LimitSet` takes them
Standing = tuple[int, int, int]
EPOCH = datetime.date(1970, 1, 1)


@dataclass
class Ask:
    """A request and its principal. Without a model nothing is estimated; `firm`: the client's own max_tokens."""

    user: str
    model: str
    prompt: int
    output: int
    firm: bool


@dataclass
class Reservation:
    """Amounts taken, by limit: its index, the counter, the amount, the end of a budget's period."""

    held: list[tuple[int, tuple[object, ...], int, int]] = field(default_factory=list)
    requests: Standing | None = None
    tokens: Standing | None = None
    is_open: bool = True


@dataclass
class Refusal:
    limit: int
    wait_ns: int
    never: bool


class SlowLimits:
    """Oracle of `LimitSet`, for rates that it keeps without rounding and a price of one micro-dollar per token."""

    def __init__(self, limits: list[Limit]) -> None:
        self._limits = limits
        self._buckets: dict[tuple[object, ...], TokenBuckets] = {}
        self._running: dict[tuple[object, ...], int] = {}
        self._spent: dict[tuple[object, ...], tuple[int, int]] = {}

    def decide(self, ask: Ask, now_ns: int, today: int) -> Reservation | Refusal:
        refusals = [self._refusal(place, ask, now_ns, today) for place in range(len(self._limits))]
        worst = max(
            (one for one in refusals if one is not None),
            key=lambda one: (one.never, one.wait_ns, -one.limit),
            default=None,
        )
        if worst is not None:
            return worst
        grant = Reservation()
        for place in range(len(self._limits)):
            self._take(grant, place, ask, now_ns, today)
        return grant

    def settle(self, grant: Reservation, tokens: int, micros: int, now_ns: int) -> None:
        if not grant.is_open:
            return
        grant.is_open = False
        for place, counter, amount, end in grant.held:
            kind = self._limits[place][2]
            if kind == "tokens":
                self._debit(counter, tokens - amount, now_ns)
            elif kind == "concurrency":
                self._running[counter] -= 1
            elif kind == "spend":
                self._spend(counter, micros - amount, end)

    def undo(self, grant: Reservation, now_ns: int) -> None:
        if not grant.is_open:
            return
        grant.is_open = False
        for place, counter, amount, end in grant.held:
            kind = self._limits[place][2]
            if kind == "concurrency":
                self._running[counter] -= 1
            elif kind == "spend":
                self._spend(counter, -amount, end)
            else:
                self._debit(counter, -amount, now_ns)

    # ---------------------------------------------------------------- one limit

    def _counter(self, place: int, ask: Ask) -> tuple[object, ...] | None:
        """Return the counter of this exchange; None when the limit does not apply to it."""
        name, by, kind, amount, period, burst = self._limits[place]
        who: list[object] = []
        for bit, word in ((native.BY_USER, ask.user), (native.BY_MODEL, ask.model)):
            if by & bit:
                if not word:
                    return None
                who.append(word)
        rate = (amount, burst) if kind in ("requests", "tokens") else ()
        return (name, by, kind, period if kind != "concurrency" else "", rate, *who)

    def _cost(self, place: int, ask: Ask) -> int:
        _, _, kind, amount, _, burst = self._limits[place]
        if kind == "requests":
            return 1
        whole = burst if kind == "tokens" else amount
        guess = min(ask.prompt + ask.output, whole)
        return max(guess, ask.output) if ask.firm and kind == "tokens" else guess

    def _bucket(self, place: int, counter: tuple[object, ...]) -> TokenBuckets:
        _, _, _, amount, period, burst = self._limits[place]
        return self._buckets.setdefault(counter, TokenBuckets(amount // PERIOD_MINUTES[period], burst))

    def _refusal(self, place: int, ask: Ask, now_ns: int, today: int) -> Refusal | None:
        counter = self._counter(place, ask)
        if counter is None:
            return None
        _, _, kind, amount, period, burst = self._limits[place]
        if kind == "concurrency":
            return Refusal(place, 0, False) if self._running.get(counter, 0) >= amount else None
        cost = self._cost(place, ask)
        if kind == "spend":
            spent, end = self._spent.get(counter, (0, 0))
            spent = spent if end == period_end(period, today) else 0
            if not ask.model or (spent < amount and spent + cost <= amount):
                return None
            return Refusal(place, (period_end(period, today) - today) * NS_PER_DAY, False)
        bucket = self._bucket(place, counter)
        left = bucket.tokens("", now_ns)
        if cost == 0 or cost <= left:
            return None
        missing = Fraction(burst) if cost > burst else cost - left
        return Refusal(place, math.ceil(missing / bucket.per_ns), cost > burst)

    def _take(self, grant: Reservation, place: int, ask: Ask, now_ns: int, today: int) -> None:
        counter = self._counter(place, ask)
        if counter is None:
            return
        kind, cost = self._limits[place][2], self._cost(place, ask)
        if kind == "concurrency":
            self._running[counter] = self._running.get(counter, 0) + 1
            grant.held.append((place, counter, 1, 0))
        elif kind == "spend":
            if ask.model:
                end = period_end(self._limits[place][4], today)
                spent, ended = self._spent.get(counter, (0, 0))
                self._spent[counter] = (cost + (spent if ended == end else 0), end)
                grant.held.append((place, counter, cost, end))
        else:
            self._debit_in(self._bucket(place, counter), cost, now_ns)
            grant.held.append((place, counter, cost, 0))
            bucket = self._bucket(place, counter)
            left = max(0, math.floor(bucket.tokens("", now_ns)))
            standing = (place, left, bucket.reset_ns("", now_ns))
            known = grant.requests if kind == "requests" else grant.tokens
            if known is None or left < known[1]:
                if kind == "requests":
                    grant.requests = standing
                else:
                    grant.tokens = standing

    def _debit(self, counter: tuple[object, ...], amount: int, now_ns: int) -> None:
        self._debit_in(self._buckets[counter], amount, now_ns)

    @staticmethod
    def _debit_in(bucket: TokenBuckets, amount: int, now_ns: int) -> None:
        """Of less than nothing: give back. A debt is possible, more than full is not."""
        bucket.buckets[""] = (min(Fraction(bucket.burst), bucket.tokens("", now_ns) - amount), now_ns)

    def _spend(self, counter: tuple[object, ...], more: int, end: int) -> None:
        spent, ended = self._spent.get(counter, (0, 0))
        if ended == end:
            self._spent[counter] = (max(0, spent + more), end)


def period_end(period: str, today: int) -> int:
    """The first day after the calendar's period, since 1970."""
    date = EPOCH + datetime.timedelta(today)
    if period == "day":
        end = date + datetime.timedelta(1)
    elif period == "week":
        end = date + datetime.timedelta(7 - date.weekday())
    else:
        end = (date.replace(day=1) + datetime.timedelta(32)).replace(day=1)
    return (end - EPOCH).days
