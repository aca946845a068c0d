"""One debit of a rate limit, beside the in-memory strategies of `limits`."""

from __future__ import annotations

import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway._native import RateLimit, Segment

KEY = "principal-0123456789"
# Far more than any run takes: what is timed is an admission.
PER_MINUTE = 10**9


@pytest.fixture
def limit() -> RateLimit:
    return RateLimit(Segment(4), "requests", PER_MINUTE, 10**7)


def test_take_native(benchmark: BenchmarkFixture, limit: RateLimit) -> None:
    now_ns = time.monotonic_ns()
    assert benchmark.pedantic(limit.take, (KEY, 1, now_ns), rounds=200, iterations=5000, warmup_rounds=5) >= 0


def test_take_native_refused(benchmark: BenchmarkFixture) -> None:
    limit = RateLimit(Segment(4), "requests", 1, 1)
    now_ns = time.monotonic_ns()
    limit.take(KEY, 1, now_ns)
    assert benchmark.pedantic(limit.take, (KEY, 1, now_ns), rounds=200, iterations=5000, warmup_rounds=5) < 0


def test_take_native_new_keys(benchmark: BenchmarkFixture, limit: RateLimit) -> None:
    keys = [f"principal-{number}" for number in range(50_000)]
    now_ns = time.monotonic_ns()

    def take_all() -> None:
        for key in keys:
            limit.take(key, 1, now_ns)

    benchmark.extra_info["calls per round"] = len(keys)
    benchmark.pedantic(take_all, rounds=5)


@pytest.mark.parametrize("strategy", ["MovingWindowRateLimiter", "SlidingWindowCounterRateLimiter"])
def test_take_limits(benchmark: BenchmarkFixture, strategy: str) -> None:
    limits = pytest.importorskip("limits")
    strategies = pytest.importorskip("limits.strategies")
    storage = limits.storage.MemoryStorage()
    limiter = getattr(strategies, strategy)(storage)
    try:
        # 100,000 a minute: its moving window remembers every one of them.
        assert benchmark.pedantic(
            limiter.hit, (limits.RateLimitItemPerMinute(10**5), KEY), rounds=50, iterations=200, warmup_rounds=1
        )
    finally:
        storage.timer.cancel()
