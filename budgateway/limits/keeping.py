"""Saves budgets and long rates to a file, so that they survive a restart."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from budgateway.limits.calendar import Calendar, Clocks, clocks
from budgateway.system.replacement import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.native import Segment

# A crash loses at most this much.
SAVE_S = 5.0
LOOK_S = 0.5  # a new day, and with it a budget, begins at most this late

_log = logging.getLogger("budgateway.limits")


class StateFile:
    """The file of saved limits: loaded before anything is served, saved every few seconds and at the end. Owned by the
    supervisor, or by the program that embeds the gateway."""

    def __init__(self, path: str, segment: Segment, read: Callable[[], Clocks] = clocks) -> None:
        """`path`: empty for no file. It may change while the gateway runs: counts continue, and go to the new file.
        `read` returns the current clocks."""
        self.path = path
        self._segment = segment
        self._read = read
        self._calendar: Calendar | None = None
        self._writing = threading.Lock()
        self._said = ""

    def load(self) -> None:
        """Load the counts from the file. Without a file, or with an invalid one, limits start from zero. Blocks."""
        calendar = self._opened()
        if not self.path:
            return
        try:
            state = Path(self.path).read_bytes()
            calendar.begin(*self._segment.load_limits(state, calendar.clocks()))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            _log.warning("limits start from zero: %s cannot be used: %s", self.path, error)

    def save(self) -> None:
        """Write the file atomically, readable by the gateway's user only. Blocks."""
        if not self.path:
            return
        # The final save waits for one that is still running.
        with self._writing:
            self._save()

    def look(self) -> None:
        """Follow the clocks (`Calendar.look`)."""
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
            if why != self._said:  # retried every few seconds: log each reason once
                _log.warning("limits are not saved: %s cannot be written: %s", self.path, why)
            self._said = why
        else:
            if self._said:
                _log.info("limits are saved again to %s", self.path)
            self._said = ""

    async def run(self) -> None:
        """Follow the clocks, and save every SAVE_S, until cancelled."""
        saved = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()
            if time.monotonic() - saved >= SAVE_S:
                await asyncio.to_thread(self.save)
                saved = time.monotonic()
