"""Metrics: what is observed is collected, and no more series than there is room for."""

from __future__ import annotations

import pytest
from books import Books

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


def test_a_series_says_what_was_entered() -> None:
    segment = Segment()
    books, metrics = Books(segment), Metrics(segment)
    labels = {
        "route": segment.intern("chat"),
        "provider": segment.intern("vllm"),
        "model_label": segment.intern("llama"),
    }
    books.enter(
        **labels,
        status=200,
        outcome=OUTCOME_COMPLETE,
        started_ns=1_000_000,
        first_ns=2_500_000,
        ended_ns=3_000_000,
        overhead_ns=15_000,
        bytes_in=300,
        bytes_out=400,
        answer=b'{"usage":{"prompt_tokens":10,"completion_tokens":20}}',
    )
    books.enter(
        **labels,
        status=200,
        outcome=OUTCOME_CLIENT_GONE,
        ended_ns=10**12,
        overhead_ns=10**9,
        bytes_in=1,
        bytes_out=2,
    )
    (series,) = metrics.collect()
    assert (series.route, series.provider, series.model, series.status) == ("chat", "vllm", "llama", 200)
    assert (series.count, series.outcomes) == (2, [1, 0, 0, 0, 1])
    # A bound belongs to its bucket; the last bucket has none. Times are those of exchanges that ended well.
    (times,) = metrics.times()
    assert (times.route, times.provider, times.model) == ("chat", "vllm", "llama")
    assert times.plain == ([0, 1, *[0] * 17], pytest.approx(0.002))
    assert times.first_byte == ([0, 1, *[0] * 23], pytest.approx(0.0015))
    assert times.tokens == [([0, 0, 1, *[0] * 9], 10), ([0, 0, 0, 1, *[0] * 8], 20)]
    assert [sum(buckets) for buckets, _ in (times.stream, times.first_token, times.per_token)] == [0, 0, 0]
    ((route, (buckets, total_s)),) = metrics.overheads()
    assert (route, buckets[1], buckets[-1], sum(buckets), len(buckets)) == ("chat", 1, 1, 2, 15)
    assert total_s == pytest.approx(1.000015)
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
        Books(Segment()).enter(outcome=5)


def test_a_collected_series_stands_still() -> None:
    books, metrics = Books(segment := Segment()), Metrics(segment)
    books.enter(status=200)
    (series,) = metrics.collect()
    books.enter(status=200)
    assert (series.count, series.route) == (1, "other")


def test_series_are_bounded_and_nothing_is_lost() -> None:
    books, metrics = Books(segment := Segment()), Metrics(segment)
    for label in range(2048):
        for status in (200, 404, 503):
            books.enter(route=label, status=status)
    collected = metrics.collect()
    assert len(collected) <= 2048
    assert sum(series.count for series in collected) == 3 * 2048
    assert [series.count for series in collected if series.status == 0] == [3 * 2048 - (len(collected) - 1)]
