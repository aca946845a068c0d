"""Rate limits: keys, refusals, and what may not be asked for."""

from __future__ import annotations

import pytest

from budgateway._native import RateLimit, Segment

SECOND_NS = 10**9
NOW_NS = 10**15


def test_text_and_its_bytes_are_one_key() -> None:
    limit = RateLimit(Segment(), "x", 60, 2)
    assert limit.take("schlüssel", 1, NOW_NS) == 1
    assert limit.take("schlüssel".encode(), 1, NOW_NS) == 0
    assert limit.take("schlüssel", 1, NOW_NS) == -SECOND_NS


def test_a_refusal_debits_nothing() -> None:
    limit = RateLimit(Segment(), "x", 60, 5)
    assert limit.take("k", 4, NOW_NS) == 1
    assert [limit.take("k", 2, NOW_NS) for _ in range(3)] == [-SECOND_NS] * 3
    assert limit.take("k", 1, NOW_NS) == 0


def test_a_cost_above_the_burst_is_refused_with_the_time_of_a_refill() -> None:
    limit = RateLimit(Segment(), "x", 60, 5)
    assert limit.take("k", 6, NOW_NS) == -5 * SECOND_NS
    assert limit.take("k", 2**64 - 1, NOW_NS) == -5 * SECOND_NS
    assert limit.take("k", 5, NOW_NS) == 0


def test_limits_of_one_scope_are_one_limit_in_every_process() -> None:
    one = Segment()
    limits = [RateLimit(segment, "x", 60, 2) for segment in (one, Segment.attach(one.fd))]
    assert [limit.take("k", 1, NOW_NS) for limit in limits] == [1, 0]
    assert [limit.take("k", 1, NOW_NS) for limit in limits] == [-SECOND_NS] * 2


@pytest.mark.parametrize("per_minute", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(per_minute: float) -> None:
    with pytest.raises(ValueError, match="rate must be a positive number"):
        RateLimit(Segment(), "x", per_minute, 1)


def test_a_burst_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="burst"):
        RateLimit(Segment(), "x", 60, 0)
    with pytest.raises(ValueError, match="decades"):
        RateLimit(Segment(), "x", 0.001, 10**7)


def test_keys_are_text_or_bytes() -> None:
    with pytest.raises(TypeError):
        RateLimit(Segment(), "x", 60, 1).take(7, 1, NOW_NS)  # type: ignore[arg-type]
    # Nothing a token may say makes the limit fail.
    assert RateLimit(Segment(), "x", 60, 1).take("\ud800", 1, NOW_NS) == 0


def test_more_keys_than_cells_only_ever_admit_more() -> None:
    limit = RateLimit(Segment(), "x", 60, 2)
    refused = sum(limit.take(str(number), 1, NOW_NS) < 0 for number in range(200_000))
    assert refused == 0
