"""The access log's way out: blocks of lines from the native buffer to a file or a standard stream."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.native import AccessLog

FLUSH_BYTES = 256 * 1024  # a block this large is written without waiting for the sweep

_log = logging.getLogger("budgateway.access")
_STREAMS = {"stdout": 1, "stderr": 2}


class AccessWriter:
    """Writes in a thread, one block at a time: a slow disk or pipe never holds up the loop. What does not fit into the
    native buffer meanwhile is dropped and counted."""

    def __init__(self, log: AccessLog, destination: str, loop: asyncio.AbstractEventLoop) -> None:
        """`destination`: stdout, stderr, or a file's path (appended to). OSError when it cannot be opened."""
        self._log = log
        self._loop = loop
        self._destination = destination
        self._fd = _STREAMS.get(destination, -1)
        self._owned = self._fd < 0
        if self._owned:
            self._fd = _opened(destination)
        self._writing: asyncio.Future[None] | None = None
        self._said_dropped = 0

    def flush(self) -> None:
        """Start writing what waits, unless a write is under way."""
        if self._writing is not None and not self._writing.done():
            return
        block = self._log.drain()
        if block:
            self._writing = self._loop.run_in_executor(None, self._write, block)
        if self._log.dropped != self._said_dropped:
            _log.warning("access log: %d lines dropped, the destination is too slow", self._log.dropped)
            self._said_dropped = self._log.dropped

    def reopen(self) -> None:
        """Go on in a file of the same name, as the old one may have been renamed (logrotate). On failure, go on as is."""
        if not self._owned:
            return
        try:
            fresh = _opened(self._destination)
        except OSError as error:
            _log.error("access log: cannot reopen: %s", error.strerror)
            return
        # Atomic for a write that is under way in its thread.
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)

    async def close(self) -> None:
        """Write the rest and close."""
        if self._writing is not None:
            await self._writing
        self._write(self._log.drain())
        if self._owned:
            os.close(self._fd)

    def _write(self, block: bytes) -> None:
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            _log.error("access log: cannot write: %s", error.strerror)


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
