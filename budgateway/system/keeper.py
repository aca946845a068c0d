"""Background tasks that must not end: exceptions are logged, and the task goes on."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Iterator

RETRY_MIN_S = 0.1
RETRY_MAX_S = 5.0
STEADY_S = 60.0  # a task that ran this long starts again with the shortest pause


class Steps:
    """The steps of a repeating task: an exception in one ends neither the task nor the steps after it."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._failing: dict[str, str] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Log an exception of the block: once, until the step succeeds again or fails in another way."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a background task's edge
            why = f"{type(error).__name__}: {error}"
            if self._failing.get(name) != why:
                self._failing[name] = why
                self._log.error("%s failed and will be retried: %s", name, why, exc_info=error)
        else:
            if self._failing.pop(name, None) is not None:
                self._log.info("%s succeeds again", name)


async def keep_on(name: str, work: Callable[[], Awaitable[None]], log: logging.Logger) -> None:
    """Run `work` until it returns. Whenever it raises, log that and run it again after a pause that grows up to 5 s."""
    loop = asyncio.get_running_loop()
    pause_s = RETRY_MIN_S
    while True:
        began = loop.time()
        try:
            await work()
        except Exception:
            if loop.time() - began > STEADY_S:
                pause_s = RETRY_MIN_S
            log.exception("%s failed; it restarts in %.1f s", name, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
        else:
            return
