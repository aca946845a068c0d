"""Scrapes: metrics are rendered in a thread, because the loop serves others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from budgateway.observe.metrics import Exposition


class Scrapes:
    """Renders one scrape at a time. Those that come meanwhile share the next one, so that each sees what was counted
    before it, and any number of them costs at most two."""

    def __init__(
        self, exposition: Exposition, spawn: Callable[[Coroutine[None, None, bytes]], asyncio.Task[bytes]]
    ) -> None:
        self._exposition = exposition
        self._spawn = spawn
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None

    async def text(self) -> bytes:
        """Return the metrics in the text format. A caller may be cancelled: others wait for the same scrape."""
        if self._next is None:
            self._next = self._spawn(self._render())
        return await asyncio.shield(self._next)

    async def _render(self) -> bytes:
        async with self._turn:
            self._next = None  # what is counted from here on is for the scrape after this
            return await asyncio.to_thread(self._exposition.look())
