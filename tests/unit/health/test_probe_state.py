"""Results of probes make an upstream unhealthy and healthy again, and set the time of the next probe."""

from __future__ import annotations

import pytest

from budgateway.health.probe_state import AWAY_AFTER, AWAY_S, RECHECK_S, Answer, ProbeState, fault
from budgateway.records import HealthCheck

CHECK = HealthCheck(interval_s=30, healthy_threshold=2, unhealthy_threshold=3)
GOOD = Answer(1.0, 2.0, 200)
BAD = Answer(1.0, 2.0, 500, "status 500")
SILENT = Answer(1.0, 2.0, 0, "no answer", silent=True)


def heard(*answers: Answer, suspected: bool = False) -> ProbeState:
    state = ProbeState()
    for answer in answers:
        state.hear(answer, CHECK, suspected=suspected)
    return state


def test_the_first_good_answer_is_enough() -> None:
    assert ProbeState().healthy is None
    assert heard(GOOD).healthy is True


def test_as_many_bad_answers_in_a_row_as_asked_for() -> None:
    assert heard(GOOD, BAD, BAD).healthy is True
    assert heard(GOOD, BAD, BAD, GOOD, BAD, BAD).healthy is True
    state = heard(GOOD, BAD, BAD, BAD)
    assert (state.healthy, state.reason) == (False, "status 500")
    assert heard(BAD, BAD).healthy is None
    assert heard(BAD, BAD, BAD).healthy is False


def test_as_many_good_answers_bring_it_back() -> None:
    assert heard(BAD, BAD, BAD, GOOD).healthy is False
    assert heard(BAD, BAD, BAD, GOOD, BAD, GOOD).healthy is False
    assert heard(BAD, BAD, BAD, GOOD, GOOD).healthy is True


def test_silence_to_traffic_and_probe_is_enough_at_once() -> None:
    assert heard(GOOD, SILENT).healthy is True
    assert heard(GOOD, SILENT, suspected=True).healthy is False
    # It said something: then the usual number counts.
    assert heard(GOOD, BAD, suspected=True).healthy is True


def test_silence_is_remembered_until_it_speaks() -> None:
    state = heard(GOOD, SILENT, suspected=True)
    assert state.silent
    assert not heard(SILENT, SILENT, SILENT).silent  # nobody but the probe says so
    assert not state.hear(SILENT, CHECK, suspected=False)
    # It speaks: what was agreed upon holds no more.
    assert state.hear(BAD, CHECK, suspected=False)
    assert (state.healthy, state.silent) == (False, False)


def test_changes_are_told_once() -> None:
    state = ProbeState()
    told = [state.hear(answer, CHECK, suspected=False) for answer in (GOOD, GOOD, BAD, BAD, BAD, BAD, GOOD, GOOD)]
    assert told == [True, False, False, False, True, False, False, True]


def test_what_is_amiss_is_asked_again_soon() -> None:
    assert heard(GOOD).pause_s(CHECK, 0.5) == 30
    assert heard(GOOD).pause_s(CHECK, 0.0) == pytest.approx(27)
    assert heard(GOOD).pause_s(CHECK, 1.0) == pytest.approx(33)
    assert heard(GOOD, BAD).pause_s(CHECK, 0.5) == RECHECK_S
    assert heard(BAD, BAD, BAD, GOOD).pause_s(CHECK, 0.5) == RECHECK_S
    assert heard(*[BAD] * (AWAY_AFTER + 1)).pause_s(CHECK, 0.5) == AWAY_S
    assert heard(BAD).pause_s(HealthCheck(interval_s=0.2), 0.5) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("status", "body", "wrong"),
    [
        (200, b"all ok here", ""),
        (204, b"ok", ""),
        (404, b"ok", ""),
        (300, b"ok", "status 300"),
        (503, b"ok", "status 503"),
        (200, b"starting", "the response lacks the expected text"),
    ],
)
def test_an_answer_is_good_by_status_and_text(status: int, body: bytes, wrong: str) -> None:
    assert fault(HealthCheck(statuses=((200, 299), (404, 404)), body="ok"), status, body) == wrong
