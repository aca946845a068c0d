"""Changes of state are logged once each, with their reason."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from budgateway.health.changes import QUIET_S, StateChanges


def upstream(
    breaker: str = "closed", *, calls: int = 0, failures: int = 0, ejections: int = 0, out_for_s: float = 0.0
) -> dict[str, Any]:
    return {
        "name": "p/0",
        "reason": "5 failures in a row",
        "breaker": {"state": breaker, "calls": calls, "failures": failures},
        "ejections": {"count": ejections, "out_for_s": out_for_s},
    }


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO)

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    return told


def test_a_breaker_tells_each_of_its_states_once(told: Any) -> None:
    changes = StateChanges()
    heard = []
    for state in ("closed", "open", "open", "half_open", "half_open", "open", "half_open", "closed", "closed"):
        changes.look([upstream(state, calls=8, failures=5)], [], {}, 0)
        heard.append(told())
    opened = ["upstream p/0: breaker open: 5 of the last 8 exchanges failed"]
    half = ["upstream p/0: breaker half open: a few exchanges try it"]
    closed = ["upstream p/0: breaker closed"]
    assert heard == [[], opened, [], half, [], opened, half, closed, []]


def test_a_breaker_without_a_window_tells_why(told: Any) -> None:
    StateChanges().look([upstream("open")], [], {}, 0)
    assert told() == ["upstream p/0: breaker open: 5 failures in a row"]


def test_an_ejection_and_its_end_are_told(told: Any) -> None:
    changes = StateChanges()
    heard = []
    for count, out_for_s in ((0, 0.0), (1, 9.8), (1, 3.0), (1, 0.0), (1, 0.0), (2, 20.0)):
        changes.look([upstream(ejections=count, out_for_s=out_for_s)], [], {}, 0)
        heard.append(told())
    first, second = (f"upstream p/0: ejected for {time} s: it failed, and others did not" for time in (10, 20))
    assert heard == [[], [first], [], ["upstream p/0: back after its ejection"], [], [second]]


def test_a_route_without_an_upstream_is_told_once(told: Any) -> None:
    changes = StateChanges()
    for without in ([], ["chat"], ["chat"], []):
        changes.look([], without, {}, 0)
    assert told() == ["route chat has no upstream that takes traffic", "route chat has an upstream again"]


def test_a_fallback_is_told_when_it_begins_and_when_it_has_long_been_idle(told: Any) -> None:
    changes = StateChanges()
    for now_s, count in ((0, 0), (1, 3), (2, 9), (QUIET_S, 9), (QUIET_S + 3, 9), (QUIET_S + 4, 10)):
        changes.look([], [], {"chat": count}, now_s)
    began = "route chat: exchanges go to a fallback"
    assert told() == [began, "route chat: no exchange went to a fallback for 60 s", began]
