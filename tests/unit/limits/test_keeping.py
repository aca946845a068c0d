"""The state of limits that outlives the gateway."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from budgateway.limits.keeping import StateFile
from budgateway.native import BY_USER, LimitSet, Price, Reservation, Segment

PRICE = Price(1e6, 1e6, 1e6)  # a dollar a token


def spend(segment: Segment, tokens: int) -> bool:
    """Spend this many tokens; true when the budget admits them."""
    limits = LimitSet(segment, 0, "r", [("money", BY_USER, "spend", 10_000_000, "month", 0)])
    today = int(time.time()) // 86_400
    answer = limits.decide("anna", "", "", "m", "", None, 0, PRICE, time.monotonic_ns(), today)
    if type(answer) is Reservation:
        return answer.settle(0, tokens * 1_000_000, time.monotonic_ns())
    return False


def test_a_budget_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "limits.state"
    before, after = Segment(), Segment()
    StateFile(str(path), before).load()
    assert spend(before, 10)
    StateFile(str(path), before).save()
    assert path.stat().st_mode & 0o777 == 0o600
    StateFile(str(path), after).load()
    assert not spend(after, 1)
    assert spend(Segment(), 1)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_state_is_said_and_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "limits.state"
    path.write_bytes(b"something else")
    with caplog.at_level(logging.WARNING):
        StateFile(str(path), Segment()).load()
        StateFile(str(tmp_path / "nowhere" / "x"), Segment()).save()
    assert [record.args[0] for record in caplog.records if record.args] == [str(path), str(tmp_path / "nowhere" / "x")]
    StateFile("", Segment()).load()
    StateFile("", Segment()).save()


def test_a_file_that_cannot_be_written_is_said_once_and_when_it_can_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later" / "limits.state"
    kept = StateFile(str(path), Segment())
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            kept.save()
        path.parent.mkdir()
        for _ in range(2):
            kept.save()
    assert [record.getMessage() for record in caplog.records] == [
        f"limits are not saved: {path} cannot be written: no such file or directory",
        f"limits are saved again to {path}",
    ]
