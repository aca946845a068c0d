"""Long work in slices: the event loop serves everything else between two of them.

Such work is a generator that yields after every few microseconds, at points where it may be interrupted, and returns
its result. `at_once` runs it where nobody waits, `in_slices` on a loop that serves, `unhurried` in a thread beside one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")

# A request that arrives meanwhile waits for half of it on average: below what the kernel's scheduler adds on a core
# that several processes share, and twenty times what a turn of the loop costs.
SLICE_NS = 250_000
# For a process that serves nobody, on a core that another one may serve on.
PAUSE_S = 0.001


def at_once(work: Generator[None, None, T]) -> T:
    """Run `work` to its end; return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


async def in_slices(
    work: Generator[None, None, T],
    *,
    slice_ns: int = SLICE_NS,
    pause_s: float = 0.0,
    now_ns: Callable[[], int] = time.monotonic_ns,
) -> T:
    """Run `work` for `slice_ns` in each turn of the event loop; return its result. `pause_s` leaves the core to other
    processes between two slices. When this is cancelled, `work` is closed where it stands."""
    try:
        while True:
            ends_ns = now_ns() + slice_ns
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    result: T = end.value
                    return result
                if now_ns() >= ends_ns:
                    break
            await asyncio.sleep(pause_s)
    finally:
        work.close()


class Rests:
    """The rests of a thread that works beside a loop: in them, the interpreter and the core are free for others."""

    def __init__(self, *, slice_ns: int = SLICE_NS, pause_s: float = PAUSE_S) -> None:
        self._slice_ns = slice_ns
        self._pause_s = pause_s
        self._due_ns = time.monotonic_ns() + slice_ns

    def rest(self) -> None:
        """Pause when a slice is over. Call this after every few microseconds of work."""
        if time.monotonic_ns() >= self._due_ns:
            time.sleep(self._pause_s)
            self._due_ns = time.monotonic_ns() + self._slice_ns


def unhurried(work: Generator[None, None, T]) -> T:
    """Run `work` in this thread, with rests; return its result."""
    rests = Rests()
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        rests.rest()
