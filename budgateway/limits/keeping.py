"""Keeps budgets and long rates in a file, so that a restart forgets none of them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from budgateway.limits.calendar import Calendar, Clocks, clocks
from budgateway.replacement import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.native import Segment

# What a crash forgets at most.
SAVE_S = 5.0
LOOK_S = 0.5  # a day, and with it a budget, begins so much later at most

_log = logging.getLogger("budgateway.limits")


class StateFile:
    """Read before anything is served, written every few seconds and when all has ended: by the supervisor, or by the
    program that a gateway runs in."""

    def __init__(self, path: str, segment: Segment, read: Callable[[], Clocks] = clocks) -> None:
        """`path`: empty for none. It may change while the gateway runs: what was counted goes on, and is written there. `read`
        says what the clocks say."""
        self.path = path
        self._segment = segment
        self._read = read
        self._calendar: Calendar | None = None
        self._writing = threading.Lock()
        self._said = ""

    def load(self) -> None:
        """Go on from what the file says. Without one, or with one that is no state, everything begins anew. Blocks."""
        calendar = self._opened()
        if not self.path:
            return
        try:
            state = Path(self.path).read_bytes()
            calendar.begin(*self._segment.load_limits(state, calendar.clocks()))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            _log.warning("limits begin anew: %s cannot be used: %s", self.path, error)

    def save(self) -> None:
        """Write the file, whole or not at all, for the gateway's user alone. Blocks."""
        if not self.path:
            return
        # The last one, at the end, waits for one that is under way.
        with self._writing:
            self._save()

    def look(self) -> None:
        """Follow the clocks, between two writes too."""
        self._opened().look()

    def _opened(self) -> Calendar:
        if self._calendar is None:
            self._calendar = Calendar(self._segment, self._read)
        return self._calendar

    def _save(self) -> None:
        state = self._segment.save_limits(self._opened().clocks())
        try:
            replace_file(self.path, state)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            if why != self._said:  # it is tried again every few seconds
                _log.warning("limits are not kept: %s cannot be written: %s", self.path, why)
            self._said = why
        else:
            if self._said:
                _log.info("limits are kept again in %s", self.path)
            self._said = ""

    async def run(self) -> None:
        """Follow the clocks, and write the file every few seconds, for ever."""
        saved = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()
            if time.monotonic() - saved >= SAVE_S:
                await asyncio.to_thread(self.save)
                saved = time.monotonic()
