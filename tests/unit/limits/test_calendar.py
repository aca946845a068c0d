"""Clocks that are set, and what budgets make of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from budgateway.limits.calendar import Clocks, clocks
from budgateway.limits.keeping import StateFile
from budgateway.native import BY_USER, LimitSet, Price, Reservation, Segment

DAY = 86_400
NOON = 20_780 * DAY + DAY // 2
PRICE = Price(1e6, 1e6, 1e6)  # a dollar a token


class Machine:
    """A machine whose wall clock somebody sets."""

    def __init__(self) -> None:
        self.since_boot_s = 1000.0
        self.boot = 7
        self.ahead_s = 0.0

    def pass_(self, seconds: float) -> None:
        self.since_boot_s += seconds

    def restart(self, off_s: float) -> None:
        """It was off for so long, and what its clocks began with is another boot's."""
        self.ahead_s += self.since_boot_s - 10 + off_s
        self.since_boot_s = 10
        self.boot += 1

    def read(self) -> Clocks:
        ns = int(self.since_boot_s * 1e9)
        return Clocks(ns, max(0, int(NOON + self.since_boot_s - 1000 + self.ahead_s)), self.boot, 1, ns)


class Spender:
    """Anna, who has ten dollars by each period."""

    def __init__(self, segment: Segment, machine: Machine) -> None:
        self._segment, self._machine = segment, machine
        self._limits = {
            period: LimitSet(segment, 0, "r", [(period, BY_USER, "spend", 10_000_000, period, 0)])
            for period in ("day", "week", "month")
        }

    def spends(self, dollars: int) -> list[bool]:
        """Return whether she may, of each."""
        now_ns = self._machine.read().now_ns
        found = []
        for limits in self._limits.values():
            answer = limits.decide("anna", "", "", "m", "", None, 0, PRICE, now_ns, self._segment.today)
            found.append(type(answer) is Reservation and answer.settle(0, dollars * 1_000_000, now_ns))
        return found


def test_the_machines_own_clocks_are_read() -> None:
    first, second = clocks(), clocks()
    assert first.boot == second.boot
    assert first.more == second.more
    assert 0 < first.now_ns <= second.now_ns
    assert 0 < first.since_boot_ns <= second.since_boot_ns
    assert first.unix_s > 1_700_000_000


@pytest.mark.parametrize("step_s", [-20_000 * DAY, -50 * DAY, -DAY, -3600, 3600, DAY, 40 * DAY, 5000 * DAY])
def test_a_clock_that_is_set_begins_no_budget_anew(step_s: int, caplog: pytest.LogCaptureFixture) -> None:
    machine, segment = Machine(), Segment()
    kept = StateFile("", segment, machine.read)
    kept.load()
    anna = Spender(segment, machine)
    assert anna.spends(10) == [True] * 3
    with caplog.at_level(logging.WARNING):
        machine.ahead_s += step_s
        machine.pass_(1)
        kept.look()
        assert anna.spends(1) == [False] * 3
        machine.ahead_s -= step_s
        machine.pass_(1)
        kept.look()
    assert anna.spends(1) == [False] * 3
    there, again = ("forward", "back") if step_s > 0 else ("back", "forward")
    assert [record.args[0] for record in caplog.records if record.args] == [there, again]  # type: ignore[index]


def test_before_the_step_is_seen_budgets_that_run_go_on() -> None:
    machine, segment = Machine(), Segment()
    StateFile("", segment, machine.read).load()
    anna = Spender(segment, machine)
    anna.spends(10)
    segment.today -= 1
    assert anna.spends(1) == [False] * 3


def test_time_that_passes_begins_them_anew_and_is_no_step(caplog: pytest.LogCaptureFixture) -> None:
    machine, segment = Machine(), Segment()
    kept = StateFile("", segment, machine.read)
    kept.load()
    anna = Spender(segment, machine)
    assert anna.spends(10) == [True] * 3
    with caplog.at_level(logging.WARNING):
        for days, expected in ((0.4, [False] * 3), (0.2, [True, False, False]), (6.5, [True, True, False])):
            for _ in range(100):
                machine.pass_(days * DAY / 100)
                kept.look()
            assert anna.spends(10) == expected
        for _ in range(1000):  # looks closer than a second, and a clock that is kept right
            machine.pass_(0.3)
            machine.ahead_s += 0.0002
            kept.look()
        machine.pass_(3 * DAY)  # suspended
        kept.look()
    assert not caplog.records


@pytest.mark.parametrize("step_s", [-20_000 * DAY, -50 * DAY, -DAY, DAY, 40 * DAY, 5000 * DAY])
def test_a_start_under_a_wrong_clock_costs_no_limit_what_it_knew(
    tmp_path: Path, step_s: int, caplog: pytest.LogCaptureFixture
) -> None:
    path, machine = str(tmp_path / "limits.state"), Machine()

    def start(dollars: int, within: bool = True) -> list[bool]:
        segment = Segment()
        kept = StateFile(path, segment, machine.read)
        kept.load()
        spent = Spender(segment, machine).spends(dollars) if within else []
        kept.save()
        machine.pass_(1)
        return spent

    assert start(10) == [True] * 3
    with caplog.at_level(logging.WARNING):
        machine.ahead_s += step_s
        assert start(1) == [False] * 3
        machine.ahead_s -= step_s
        assert start(1) == [False] * 3
    assert len(caplog.records) == 2
    # And of one that was booted with it.
    machine.restart(60)
    machine.ahead_s += step_s
    start(0, within=False)
    machine.restart(60)
    machine.ahead_s -= step_s
    assert start(1) == [False] * 3
    # A machine that is off for as long lets time pass, once its clock was right for a day.
    segment = Segment()
    kept = StateFile(path, segment, machine.read)
    kept.load()
    machine.pass_(1.1 * DAY)
    kept.save()
    machine.restart(40 * DAY)
    assert start(10) == [True] * 3
