"""A rate limit as one would explain it: a bucket of tokens that refills, in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

NS_PER_MINUTE = 60 * 10**9


class TokenBuckets:
    """Oracle of `RateLimit`, for rates at which a token takes a whole number of eighths of a nanosecond."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self.per_ns = Fraction(per_minute, NS_PER_MINUTE)
        self.burst = burst
        self.buckets: dict[str, tuple[Fraction, int]] = {}

    def tokens(self, key: str, now_ns: int) -> Fraction:
        tokens, then_ns = self.buckets.get(key, (Fraction(self.burst), now_ns))
        return min(Fraction(self.burst), tokens + (now_ns - then_ns) * self.per_ns)

    def take(self, key: str, cost: int, now_ns: int) -> int:
        tokens = self.tokens(key, now_ns)
        if cost > self.burst:
            return -math.ceil(self.burst / self.per_ns)
        if cost > tokens:
            return -math.ceil((cost - tokens) / self.per_ns)
        self.buckets[key] = (tokens - cost, now_ns)
        return math.floor(tokens - cost)

    def refund(self, key: str, cost: int) -> None:
        if key in self.buckets:
            tokens, then_ns = self.buckets[key]
            self.buckets[key] = (tokens + cost, then_ns)

    def reset_ns(self, key: str, now_ns: int) -> int:
        return math.ceil((self.burst - self.tokens(key, now_ns)) / self.per_ns)
