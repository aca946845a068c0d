"""Retries and fallbacks of exchanges that failed before any response byte reached the client."""

from __future__ import annotations

from random import random
from time import time
from typing import TYPE_CHECKING, Any

from budgateway.balance.hedge_cy import Hedging
from budgateway.errors import GatewayError
from budgateway.exchange.response_check_cy import verdict_of
from budgateway.native import VERDICT_NEUTRAL
from budgateway.wire.retry_after import seconds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.balance.balancer_cy import Balancer
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.native import ResponseHead
    from budgateway.records import Retries

# Reasons for a further attempt: eight counters of eight bits in `Exchange.retries`, the native core's RETRY_*.
CONNECT = 0  # the connection was not established: nothing was sent
STALE = 1  # a kept-alive connection was closed as we wrote
BROKEN = 2  # not HTTP, truncated, empty, or an error with status 200
TIMEOUT = 3  # silent for too long
PRESSURE = 4  # 429, 503 or 529
FAILURE = 5  # any other status that is retried
HEDGE = 6  # a second attempt parallel to the first
FALLBACK = 7  # another provider

# Reasons up to this one cost the upstreams nothing, and take nothing from the retry budget.
_STALE = 1

BACKOFF_NS = 25_000_000  # doubled with each attempt after the second; full jitter
MAX_BACKOFF_NS = 250_000_000


class Attempts:
    """The retry rules of one route (RELIABILITY 2). Stores its choices in the exchange, like the balancer."""

    def __init__(self, rules: Retries, fallbacks: Sequence[Any]) -> None:
        """`fallbacks` are the destinations to try in order."""
        self.rules = rules
        self.max_attempts = rules.max_attempts
        self.statuses = frozenset(rules.statuses)
        self.fallback_on = frozenset(rules.fallback_on)
        # Responses are checked for a refusal of the prompt's length only when a fallback would follow it.
        self.minds_context = bool(fallbacks) and "context_length" in self.fallback_on
        self.hedging: Any = None if rules.hedge is None else Hedging(rules.hedge)
        self._fallbacks = tuple(fallbacks)
        self._max_wait_ns = int(rules.max_retry_after_s * 1e9)

    def next(self, x: Exchange, verdict: int, reason: int, wait_ns: int, now_ns: int) -> int:
        """Choose the next upstream and take a slot there. Returns the nanoseconds to wait before the attempt, or -1
        when there is none; the exchange then keeps its slot. `wait_ns` is the upstream's Retry-After, -1 without."""
        if x.until_ns and now_ns >= x.until_ns:
            return -1
        budget = None if reason <= _STALE else x.destination.budget
        if reason != FALLBACK and x.destination_attempts < self.max_attempts and (budget is None or budget.take()):
            balancer: Balancer = x.destination.balancer
            if balancer.another(x, verdict, now_ns):
                x.force_dial = False
                self._count(x, reason)
                return self._backoff(x)
            if 0 <= wait_ns <= self._max_wait_ns and (not x.until_ns or now_ns + wait_ns < x.until_ns):
                # No other upstream is left: wait as Retry-After says, and use the same one.
                x.tried = 0
                if balancer.same(x, verdict, now_ns):
                    x.force_dial = False
                    self._count(x, reason)
                    return wait_ns
            if budget is not None:
                budget.give_back()
        return 0 if self.fall_back(x, verdict, reason, now_ns) else -1

    def hedge(self, x: Exchange, now_ns: int) -> Exchange | None:
        """Create a hedge: a second attempt parallel to the slow one, with a slot at another upstream. None when the
        route's attempts, the time left, the retry budget or the upstreams do not allow it."""
        if (
            x.destination_attempts >= self.max_attempts
            or not 0 <= x.index < 64
            or (x.until_ns and now_ns >= x.until_ns)
        ):
            return None
        budget = x.destination.budget
        if budget is not None and not budget.take():
            return None
        h = x.twin(now_ns)
        balancer: Balancer = x.destination.balancer
        if not balancer.try_another(h, now_ns):
            if budget is not None:
                budget.give_back()
            return None
        x.attempts += 1
        x.destination_attempts += 1
        self._count(x, HEDGE)
        return h

    def better(self, x: Exchange, head: ResponseHead, now_ns: int) -> int:
        """Like `next`, for an upstream's error response; -1 when the response must be passed on."""
        status = x.status
        is_retried = status in self.statuses
        if x.streamed or not (is_retried or status >= 500) or not x.route.may_replay(x):
            return -1
        reason = PRESSURE if status in (429, 503, 529) else FAILURE
        if is_retried:
            words = head.header("retry-after")
            wait_ns = -1 if words is None else int(seconds_of(words, time()) * 1e9)
            return self.next(x, verdict_of(status), reason, wait_ns, now_ns)
        return 0 if self.fall_back(x, verdict_of(status), reason, now_ns) else -1

    def fall_back(self, x: Exchange, verdict: int, reason: int, now_ns: int) -> bool:
        """Move to the route's next fallback that has a free upstream. False when there is none."""
        while x.fallback < len(self._fallbacks) and self._falls(reason):
            destination = self._fallbacks[x.fallback]
            x.fallback += 1
            balancer: Balancer = destination.balancer
            former: Balancer = x.destination.balancer
            index, note, tried, target = x.index, x.note, x.tried, x.target
            x.index, x.tried = -1, 0
            if balancer.try_next(x, now_ns) >= 0:
                if not self._adapts(x, destination):
                    balancer.give_back(x.index, x.note, VERDICT_NEUTRAL, now_ns)
                    x.index, x.note, x.tried, x.target = index, note, tried, target
                    continue
                if index >= 0:
                    former.give_back(index, note, verdict, now_ns)
                if x.destination.budget is not None:
                    x.destination.budget.repay()
                x.destination = destination
                x.destination_attempts = 0
                x.force_dial = False
                self._count(x, FALLBACK)
                return True
            x.index, x.tried = index, tried
        return False

    def _adapts(self, x: Exchange, destination: Any) -> bool:
        """Fit the request to another destination. False, and nothing changes, when that speaks a dialect in which the
        request has no form: the next fallback may speak another one."""
        former = x.adapter, x.head_edits, x.translation, x.send_body, x.rename, x.keeps_usage
        adapter = destination.adapters[x.dialect]
        x.adapter = adapter
        x.head_edits = None
        x.translation = None
        x.rename = False
        x.keeps_usage = False
        try:
            if x.body_done:
                adapter.request(x)
            if x.reply is not None:  # it has no form there, and its answer would come too late
                x.reply = None
            elif x.body_done or not adapter.translates:
                if destination.transforms is not None:
                    destination.transforms.request(x)
                return True
        except GatewayError:
            pass
        x.adapter, x.head_edits, x.translation, x.send_body, x.rename, x.keeps_usage = former
        return False

    def falls_on(self, error: GatewayError) -> bool:
        """True when an error of the gateway's leads to a fallback: no upstream could be chosen, or all are full."""
        return bool(self._fallbacks) and error.code in ("no_upstream", "overloaded") and "error" in self.fallback_on

    def deadline(self, x: Exchange, now_ns: int) -> int:
        """The deadline for this attempt's response to begin. A stream that another upstream could serve gets the
        provider's `first_event_s`, or half of the time left: an upstream silent for that long may never respond. An
        unstreamed response begins only when it is computed, and gets all of the time."""
        if not x.streams or x.destination_attempts >= self.max_attempts or not self._has_other(x):
            return x.answer_ns
        first_event_ns = x.destination.first_event_ns or (x.answer_ns - now_ns) // 2
        return min(x.answer_ns, now_ns + first_event_ns)

    def _has_other(self, x: Exchange) -> bool:
        balancer: Balancer = x.destination.balancer
        bits = x.tried
        left = len(balancer.targets) - 1
        while bits:
            bits &= bits - 1
            left -= 1
        return left > 0 or (x.fallback < len(self._fallbacks) and "error" in self.fallback_on)

    def _falls(self, reason: int) -> bool:
        if reason == PRESSURE:
            return "429" in self.fallback_on
        if reason == FAILURE:
            return "5xx" in self.fallback_on
        if reason == FALLBACK:
            return "context_length" in self.fallback_on
        return "error" in self.fallback_on

    def _backoff(self, x: Exchange) -> int:
        """The nanoseconds to wait before an attempt at another upstream. The first one goes at once: that upstream has
        not failed."""
        if x.destination_attempts < 2:
            return 0
        longest_ns = min(BACKOFF_NS << (x.destination_attempts - 2), MAX_BACKOFF_NS)
        return int(random() * longest_ns)  # noqa: S311 - a matter of chance, not of secrecy

    def _count(self, x: Exchange, reason: int) -> None:
        one = 1
        one <<= 8 * reason  # in two steps, so that C shifts a long long
        if (x.retries >> (8 * reason)) & 0xFF < 0xFF:
            x.retries += one
