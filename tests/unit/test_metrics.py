"""Metrics: what is observed is collected, and no more series than there is room for."""

from __future__ import annotations

import pytest

from budgateway._native import (
    DURATION_BOUNDS_S,
    OUTCOME_CLIENT_GONE,
    OUTCOME_COMPLETE,
    OUTCOME_REFUSED,
    OUTCOME_TRUNCATED,
    OUTCOME_UPSTREAM_FAILED,
    OVERHEAD_BOUNDS_S,
    Metrics,
    Segment,
)


def test_bounds_cover_a_cache_hit_to_ten_minutes() -> None:
    assert (DURATION_BOUNDS_S[0], DURATION_BOUNDS_S[-1], len(DURATION_BOUNDS_S)) == (0.001, 600.0, 18)
    assert (OVERHEAD_BOUNDS_S[0], OVERHEAD_BOUNDS_S[-1], len(OVERHEAD_BOUNDS_S)) == (10e-6, 0.1, 14)
    assert list(DURATION_BOUNDS_S) == sorted(DURATION_BOUNDS_S)
    assert list(OVERHEAD_BOUNDS_S) == sorted(OVERHEAD_BOUNDS_S)


def test_a_series_says_what_was_observed() -> None:
    segment = Segment()
    metrics = Metrics(segment)
    route, provider, model = (segment.intern(name) for name in ("chat", "vllm", "llama"))
    metrics.observe(route, provider, model, 200, OUTCOME_COMPLETE, 2_000_000, 15_000, 1_500_000, 300, 400, 10, 20)
    metrics.observe(route, provider, model, 200, OUTCOME_CLIENT_GONE, 10**12, 10**9, 0, 1, 2, -1, -1)
    (series,) = metrics.collect()
    assert (series.route, series.provider, series.model, series.status) == ("chat", "vllm", "llama", 200)
    assert (series.count, series.outcomes) == (2, [1, 0, 0, 0, 1])
    # A bound belongs to its bucket; the last bucket has none.
    buckets, total_s = series.duration
    assert (buckets[1], buckets[-1], sum(buckets), len(buckets)) == (1, 1, 2, 19)
    assert total_s == pytest.approx(1000.002)
    buckets, total_s = series.overhead
    assert (buckets[1], buckets[-1], sum(buckets), len(buckets)) == (1, 1, 2, 15)
    assert total_s == pytest.approx(1.000015)
    assert series.first_byte == ([0, 1, *[0] * 17], pytest.approx(0.0015))
    assert (series.bytes_in, series.bytes_out, series.tokens_in, series.tokens_out) == (301, 402, 10, 20)


def test_outcomes_are_in_the_order_of_their_numbers() -> None:
    outcomes = [
        OUTCOME_COMPLETE,
        OUTCOME_REFUSED,
        OUTCOME_UPSTREAM_FAILED,
        OUTCOME_TRUNCATED,
        OUTCOME_CLIENT_GONE,
    ]
    assert outcomes == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="none of OUTCOME_"):
        Metrics(Segment()).observe(0, 0, 0, 200, 5, 0, 0, 0, 0, 0, 0, 0)


def test_a_collected_series_stands_still() -> None:
    metrics = Metrics(Segment())
    metrics.observe(0, 0, 0, 200, OUTCOME_COMPLETE, 0, 0, 0, 0, 0, 0, 0)
    (series,) = metrics.collect()
    metrics.observe(0, 0, 0, 200, OUTCOME_COMPLETE, 0, 0, 0, 0, 0, 0, 0)
    assert (series.count, series.route) == (1, "other")


def test_series_are_bounded_and_nothing_is_lost() -> None:
    segment = Segment()
    metrics = Metrics(segment)
    for label in range(2048):
        for status in (200, 404, 503):
            metrics.observe(label, 0, 0, status, OUTCOME_COMPLETE, 0, 0, 0, 0, 0, 0, 0)
    collected = metrics.collect()
    assert len(collected) <= 2048
    assert sum(series.count for series in collected) == 3 * 2048
    assert [series.count for series in collected if series.status == 0] == [3 * 2048 - (len(collected) - 1)]
