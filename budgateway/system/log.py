"""Logging to a standard stream through a bounded queue and a writer thread, so that no event loop blocks on a reader.

A pipe whose reader has stopped (a container's log driver, a pager) takes 64 KiB and then blocks its writer.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import threading
from collections import deque

QUEUE_BYTES = 1 << 20  # about 10,000 lines
PIPE_BUF = 4096  # pipe(7): writes up to this size are not interleaved with those of other processes
CLOSE_S = 0.5  # how long an exit waits for a reader
FULL_S = 1.0  # between two tries of a descriptor that would block
STDOUT, STDERR = 1, 2
FORMAT = "%(asctime)s %(levelname)s %(name)s{} %(message)s"


class QueuedWriter:
    """Writes lines to a descriptor in a thread. Lines that do not fit into the queue or cannot be written are dropped
    and counted."""

    def __init__(self, fd: int, capacity: int = QUEUE_BYTES) -> None:
        """`fd` stays the caller's. `capacity` is in bytes."""
        self.dropped = 0  # lines
        self._fd = fd
        self._capacity = capacity
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._busy = False
        self._closed = False
        self._torn = False  # the last write ended within a line
        self._changed = threading.Condition()
        # A daemon thread: the interpreter's exit must not wait for a reader.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> bool:
        """Queue a line with its line break; return False when it was dropped. Never blocks."""
        with self._changed:
            if self._closed or self._size + len(line) > self._capacity:
                self.dropped += 1
                return False
            self._queue.append(line)
            self._size += len(line)
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until everything is written, at most `timeout_s`; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write the rest of the queue within `timeout_s`. Idempotent."""
        self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(0 if self._busy else timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                lines = [self._queue.popleft()]
                length = len(lines[0])
                while self._queue and length + len(self._queue[0]) < PIPE_BUF:  # one byte is for a torn line's break
                    lines.append(self._queue.popleft())
                    length += len(lines[-1])
                self._size -= length
                self._busy = True
            if not self._write(b"".join(lines)):
                with self._changed:
                    self.dropped += len(lines)

    def _write(self, data: bytes) -> bool:
        view = memoryview(b"\n" + data if self._torn else data)
        while view:
            try:
                written = os.write(self._fd, view)
            except BlockingIOError:
                # Another process that shares the open file description has made it non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(FULL_S * 1000)
                if self._closed:
                    return False
                continue
            except OSError:  # gone, full, or closed: there is nowhere to report it
                return False
            self._torn = written < len(view)
            view = view[written:]
        return True


class QueuedHandler(logging.Handler):
    """Passes records to a writer, and logs the number of lost lines once there is room again."""

    def __init__(self, writer: QueuedWriter) -> None:
        super().__init__()
        self._writer = writer
        self._said = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Format and queue a record. Never blocks."""
        try:
            lost = self._writer.dropped
            if self._writer.put(self._line(record)) and lost != self._said:
                words = "%d lines of the log were lost: standard error did not accept them"
                notice = logging.LogRecord(
                    "budgateway.log", logging.WARNING, __file__, 0, words, (lost - self._said,), None
                )
                if self._writer.put(self._line(notice)):
                    self._said = lost
        except Exception:  # noqa: BLE001 - as logging's own handlers: a line that cannot be formatted ends nobody
            self.handleError(record)

    def flush(self) -> None:
        """Do nothing: `logging.shutdown` must not wait."""

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(errors="backslashreplace")


def begin(level: str, suffix: str = "") -> QueuedWriter:
    """Log to standard error through a queue in this process; `suffix` follows each logger's name."""
    writer = QueuedWriter(STDERR)
    handler = QueuedHandler(writer)
    handler.setFormatter(logging.Formatter(FORMAT.format(suffix)))
    root = logging.getLogger()
    if not root.handlers:  # an embedding program's own logging stays as it is
        root.addHandler(handler)
        root.setLevel(level)
    atexit.register(writer.close)
    return writer


def show(text: str) -> None:
    """Print to standard output without waiting: it may be closed, or a pipe that is never read."""
    out = QueuedWriter(STDOUT)
    out.put(text.encode(errors="backslashreplace"))
    out.close(0)
