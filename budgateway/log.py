"""The log's way to a standard stream: a bounded queue and a writer thread, so that no event loop waits for a reader.

A pipe whose reader has stopped (a container's log driver, a pager) takes 64 KiB and then blocks whoever writes to it.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import threading
from collections import deque

QUEUE_BYTES = 1 << 20  # about 10,000 lines
PIPE_BUF = 4096  # pipe(7): a write of at most so many bytes is not mixed with those of other processes
CLOSE_S = 0.5  # that an end waits for a reader
FULL_S = 1.0  # between two looks at a descriptor that would block
STDOUT, STDERR = 1, 2
FORMAT = "%(asctime)s %(levelname)s %(name)s{} %(message)s"


class QueuedWriter:
    """Writes lines to a descriptor in a thread. What does not fit into the queue, or cannot be written, is dropped and counted."""

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
        # A daemon: at the interpreter's end nobody waits for a reader.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> bool:
        """Queue a line with its line break; False when it was dropped. Never blocks."""
        with self._changed:
            if self._closed or self._size + len(line) > self._capacity:
                self.dropped += 1
                return False
            self._queue.append(line)
            self._size += len(line)
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until everything is written, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what is left as far as there is time for it. Idempotent."""
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
                while self._queue and length + len(self._queue[0]) < PIPE_BUF:  # with a byte to spare for a torn line
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
                # Somebody who shares the description made it non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(FULL_S * 1000)
                if self._closed:
                    return False
                continue
            except OSError:  # gone, full, or closed: there is no other place to say so
                return False
            self._torn = written < len(view)
            view = view[written:]
        return True


class QueuedHandler(logging.Handler):
    """Hands records to a writer, and says how many lines were lost once there is room again."""

    def __init__(self, writer: QueuedWriter) -> None:
        super().__init__()
        self._writer = writer
        self._said = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Format and queue. Never blocks."""
        try:
            lost = self._writer.dropped
            if self._writer.put(self._line(record)) and lost != self._said:
                words = "%d lines of the log were lost: standard error did not take them"
                notice = logging.LogRecord(
                    "budgateway.log", logging.WARNING, __file__, 0, words, (lost - self._said,), None
                )
                if self._writer.put(self._line(notice)):
                    self._said = lost
        except Exception:  # noqa: BLE001 - as logging's own handlers: a line that cannot be formatted ends nobody
            self.handleError(record)

    def flush(self) -> None:
        """Nothing: `logging.shutdown` must not wait."""

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(errors="backslashreplace")


def begin(level: str, suffix: str = "") -> QueuedWriter:
    """Have this process log to standard error through a queue; `suffix` follows each logger's name."""
    writer = QueuedWriter(STDERR)
    handler = QueuedHandler(writer)
    handler.setFormatter(logging.Formatter(FORMAT.format(suffix)))
    root = logging.getLogger()
    if not root.handlers:  # a program's own logging stays as it is
        root.addHandler(handler)
        root.setLevel(level)
    atexit.register(writer.close)
    return writer


def show(text: str) -> None:
    """Print to standard output without waiting: it may be a pipe that nobody reads, or none any more."""
    out = QueuedWriter(STDOUT)
    out.put(text.encode(errors="backslashreplace"))
    out.close(0)
