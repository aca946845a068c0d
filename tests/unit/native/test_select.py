"""Selection: what a selector may be asked, and what many upstreams change."""

from __future__ import annotations

from collections import Counter

import pytest

from budgateway._native import VERDICT_FAILURE, VERDICT_NEUTRAL, VERDICT_SUCCESS, Segment, Selector

SECOND_NS = 10**9


def upstreams(segment: Segment, count: int) -> list[tuple[int, int]]:
    return [(segment.upstream(f"http://{number}"), 1) for number in range(count)]


def test_nothing_to_choose_from() -> None:
    assert Selector(Segment(), 0, "random", []).pick(0) == -1


def test_weight_zero_takes_no_traffic() -> None:
    segment = Segment()
    for policy in ("round_robin", "weighted", "least_connections", "random", "power_of_two", "least_load"):
        selector = Selector(segment, 0, policy, [(segment.upstream("a"), 0), (segment.upstream("b"), 1)])
        assert {selector.pick(0) for _ in range(20)} == {1}


def test_more_than_64_upstreams_are_chosen_from_but_not_excluded() -> None:
    segment = Segment()
    selector = Selector(segment, 0, "round_robin", upstreams(segment, 70))
    assert {selector.pick(0, 2**64 - 1) for _ in range(200)} == {64, 65, 66, 67, 68, 69}
    # A mask of all that were tried is as wide as the list.
    assert selector.pick(0, (1 << 70) - 1) >= 64


def test_one_seed_gives_one_sequence_and_workers_differ() -> None:
    def picks(worker: int, seed: int) -> list[int]:
        segment = Segment(2)
        selector = Selector(segment, worker, "random", upstreams(segment, 8), seed=seed)
        return [selector.pick(0) for _ in range(50)]

    assert picks(0, 1) == picks(0, 1)
    assert len({tuple(picks(worker, seed)) for worker in (0, 1) for seed in (1, 2)}) == 4


def test_selectors_over_one_list_take_turns_together() -> None:
    segment = Segment(2)
    one, two = (Selector(segment, worker, "round_robin", upstreams(segment, 3)) for worker in (0, 1))
    assert [one.pick(0), two.pick(0), one.pick(0), two.pick(0)] == [0, 1, 2, 0]
    assert Selector(segment, 0, "round_robin", upstreams(segment, 2)).pick(0) == 0


def test_a_breaker_is_seen_by_every_selector_of_the_upstream() -> None:
    segment = Segment(2)
    one, two = (
        Selector(segment, worker, "round_robin", upstreams(segment, 2), failure_threshold=2, open_ns=SECOND_NS)
        for worker in (0, 1)
    )
    for _ in range(2):
        assert one.pick(0, 0b10) == 0
        one.release(0, VERDICT_FAILURE, 0)
    assert (two.state(0, 0), two.state(0, SECOND_NS), two.state(1, 0)) == ("open", "half_open", "closed")
    assert [two.pick(0) for _ in range(3)] == [1, 1, 1]
    assert two.pick(0, 0b10) == -1
    assert Selector(segment, 0, "round_robin", upstreams(segment, 2)).pick(0, 0b10) == 0


def test_probes_are_counted_across_workers() -> None:
    segment = Segment(4)
    workers = [
        Selector(segment, worker, "random", upstreams(segment, 1), failure_threshold=1, open_ns=SECOND_NS)
        for worker in range(4)
    ]
    workers[0].pick(0)
    workers[0].release(0, VERDICT_FAILURE, 0)
    picks = Counter(worker.pick(SECOND_NS) for worker in workers for _ in range(250))
    assert picks == {0: 3, -1: 997}
    # Those three are lost with their workers: a window later there are three more.
    assert Counter(workers[0].pick(2 * SECOND_NS) for _ in range(10)) == {0: 3, -1: 7}
    workers[0].release(0, VERDICT_NEUTRAL, 2 * SECOND_NS)
    assert [workers[0].pick(2 * SECOND_NS) for _ in range(2)] == [0, -1]
    for _ in range(3):
        workers[0].release(0, VERDICT_SUCCESS, 2 * SECOND_NS)
    assert workers[0].state(0, 2 * SECOND_NS) == "closed"


def test_a_drained_upstream_says_so_and_comes_back() -> None:
    segment = Segment()
    selector = Selector(segment, 0, "round_robin", upstreams(segment, 1))
    selector.drain(0, True)
    assert (selector.state(0, 0), selector.pick(0)) == ("drained", -1)
    selector.drain(0, False)
    assert (selector.state(0, 0), selector.pick(0)) == ("closed", 0)


def test_a_release_after_the_row_was_cleared_stays_at_zero() -> None:
    segment = Segment()
    selector = Selector(segment, 0, "round_robin", upstreams(segment, 1))
    selector.pick(0)
    segment.clear_worker(0)
    selector.release(0, VERDICT_SUCCESS, 0)
    assert selector.in_flight(0) == 0


def test_what_cannot_be_is_refused() -> None:
    segment = Segment()
    with pytest.raises(ValueError, match="unknown policy 'fastest'"):
        Selector(segment, 0, "fastest", [])
    with pytest.raises(ValueError, match="slot 7 was never given out"):
        Selector(segment, 0, "random", [(7, 1)])
    with pytest.raises(ValueError, match="worker 1 is out of range"):
        Selector(segment, 1, "random", [])
    with pytest.raises(ValueError, match="at most 256"):
        Selector(segment, 0, "random", [(segment.upstream("a"), 1)] * 257)
    selector = Selector(segment, 0, "random", upstreams(segment, 2))
    with pytest.raises(ValueError, match="index 2 is out of range"):
        selector.release(2, VERDICT_SUCCESS, 0)
    with pytest.raises(ValueError, match="none of VERDICT_"):
        selector.release(0, 9, 0)
