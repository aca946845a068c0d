"""A spare that cannot be had: workers are then started without one, and that is said once."""

from __future__ import annotations

import logging
import sys

import pytest

from budgateway.fleet import Fleet


def test_why_there_is_no_spare_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    fleet = Fleet(1, lambda work: work.close())
    fleet.open([], "")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            fleet.keep_spare(True)
    fleet.close()
    (record,) = caplog.records
    assert "cannot adopt orphans" in record.getMessage()
