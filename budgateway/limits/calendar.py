"""The day that budgets count by: it advances with time; setting the wall clock does not restart a budget."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from budgateway.native import Segment

S_PER_DAY = 86_400
STEP_S = 2  # a clock merely disciplined (NTP) drifts less than this from the time since boot, between two readings
SETTLED_S = 86_400.0  # a clock that was not set for this long is taken as correct
LAST_DAY = 200_000  # in the year 2517: budget cells have 18 bits for the day

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_log = logging.getLogger("budgateway.limits")


class Clocks(NamedTuple):
    """A reading of all clocks, in the native core's order."""

    now_ns: int  # monotonic; limits count by it
    unix_s: int  # the wall clock, which may be wrong
    boot: int  # the machine's boot id, in two 64-bit words; zero: unknown
    more: int
    since_boot_ns: int  # includes time suspended
    behind_s: int = 0  # how far the wall clock was recently set back; negative: forward


def clocks() -> Clocks:
    """Read this machine's clocks."""
    return Clocks(time.monotonic_ns(), max(0, int(time.time())), *_boot(), time.clock_gettime_ns(time.CLOCK_BOOTTIME))


class Calendar:
    """Keeps the segment's day for all workers. Runs in the supervisor, or in the program that embeds the gateway."""

    def __init__(self, segment: Segment, read: Callable[[], Clocks] = clocks) -> None:
        """`read` returns the current clocks."""
        self._segment = segment
        self._read = read
        self._behind_s = 0
        self._last = read()
        self._stepped_ns = self._last.since_boot_ns
        self._segment.today = day(self._last)

    def clocks(self) -> Clocks:
        """Follow the clocks, then return them."""
        self.look()
        return self._last

    def begin(self, step_s: int, behind_s: int) -> None:
        """Continue from saved limits; the wall clock was set by `step_s` since they were saved."""
        self._behind_s = behind_s
        self._last = self._last._replace(behind_s=behind_s)
        if step_s:
            self._say(step_s)

    def look(self) -> None:
        """Update the segment's day, and move budgets when the wall clock was set. Call about once a second."""
        now, before = self._read(), self._last
        due_s = before.unix_s + (now.since_boot_ns - before.since_boot_ns) // 1_000_000_000
        step_s = now.unix_s - due_s
        today = day(now)
        if abs(step_s) > STEP_S:
            self._behind_s -= step_s
            self._stepped_ns = now.since_boot_ns
            was = min(due_s // S_PER_DAY, LAST_DAY)
            if today < was:
                # Back: first the day, then the budgets; forward: the reverse. Concurrent spending meets the old sums.
                self._segment.today = today
            if today != was:
                self._segment.carry_budgets(was, today)
        elif now.since_boot_ns - self._stepped_ns > SETTLED_S * 1e9:
            self._behind_s = 0
        self._segment.today = today
        # Compared from one reading to the next, so that rounding to seconds does not accumulate.
        self._last = now._replace(behind_s=self._behind_s)
        if abs(step_s) > STEP_S:
            self._say(step_s)

    def _say(self, step_s: int) -> None:
        _log.warning(
            "the wall clock was set %s by %d s, to %s: budgets and long rates keep their usage",
            "forward" if step_s > 0 else "back", abs(step_s),
            time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._last.unix_s)),
        )  # fmt: skip


def day(now: Clocks) -> int:
    """The day of a reading, in days since 1970, UTC; at most LAST_DAY."""
    return min(now.unix_s // S_PER_DAY, LAST_DAY)


@functools.cache
def _boot() -> tuple[int, int]:
    try:
        number = int(_BOOT_ID.read_text().strip().replace("-", ""), 16)
    except (OSError, ValueError):
        return 0, 0
    return number >> 64, number & (1 << 64) - 1
