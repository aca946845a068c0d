"""Rate limits against buckets of tokens in exact fractions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from oracles.gcra import TokenBuckets

from budgateway._native import RateLimit, Segment

START_NS = 10**15
# A token takes a whole number of eighths of a nanosecond: the rates that are kept without rounding.
rates = st.sampled_from([1, 3, 60, 1000, 48_000, 10**6, 10**7, 10**9])
steps = st.tuples(
    st.sampled_from("abc"),
    st.integers(0, 30),
    st.integers(0, 10) | st.integers(0, 10**11),
)


@given(per_minute=rates, burst=st.integers(1, 20) | st.just(10**6), steps=st.lists(steps, max_size=60))
def test_every_answer_is_the_oracles(per_minute: int, burst: int, steps: list[tuple[str, int, int]]) -> None:
    limit = RateLimit(Segment(), "scope", per_minute, burst)
    oracle = TokenBuckets(per_minute, burst)
    now_ns = START_NS
    for key, cost, pause_ns in steps:
        now_ns += pause_ns
        assert limit.take(key, cost, now_ns) == oracle.take(key, cost, now_ns)


@given(
    per_minute=st.floats(0.01, 1e9),
    burst=st.integers(1, 50),
    pauses_ns=st.lists(st.integers(0, 10**10), min_size=1, max_size=200),
)
def test_no_window_holds_more_than_rate_and_burst(per_minute: float, burst: int, pauses_ns: list[int]) -> None:
    limit = RateLimit(Segment(), "scope", per_minute, burst)
    now_ns, admitted = START_NS, []
    for pause_ns in pauses_ns:
        now_ns += pause_ns
        if limit.take("key", 1, now_ns) >= 0:
            admitted.append(now_ns)
    for first, since_ns in enumerate(admitted):
        for last, until_ns in enumerate(admitted[first:], first):
            assert last - first + 1 <= burst + (until_ns - since_ns) * per_minute / 60e9 + 1e-6


@given(cost=st.integers(1, 10**7), per_minute=rates.filter(lambda rate: rate > 1), pause_ns=st.integers(0, 10**9))
def test_the_wait_is_exact(cost: int, per_minute: int, pause_ns: int) -> None:
    limit = RateLimit(Segment(), "scope", per_minute, 10**7)
    limit.take("key", 10**7, START_NS)
    wait_ns = -limit.take("key", cost, START_NS + pause_ns)
    if wait_ns > 0:
        assert limit.take("key", cost, START_NS + pause_ns + wait_ns - 1) == -1
        assert limit.take("key", cost, START_NS + pause_ns + wait_ns) >= 0
