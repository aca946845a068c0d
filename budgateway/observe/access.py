"""The access log writer: writes blocks of lines from the native buffer to a file or a standard stream."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import queue
import select
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from budgateway.native import AccessLog

FLUSH_BYTES = 256 * 1024  # a block this large is written without waiting for the sweep
FOLLOW_S = 1.0  # between two checks whether the file was replaced (rotated)
LOCK_S = 1.0  # a writer that holds the lock longer was stopped during its write
WAIT_S = 0.2  # for a pipe to accept more, between checks for the end
CLOSE_S = 2.0  # for the last lines, when the destination accepts nothing
RETRY_S = 0.2  # between two attempts to write a failed block, however many lines arrive meanwhile
SAY_S = 10.0  # between two log lines about the same error

_log = logging.getLogger("budgateway.access")
_STREAMS = {"stdout": 1, "stderr": 2, "/dev/stdout": 1, "/dev/stderr": 2}


class AccessWriter:
    """Writes whole lines in a thread, one block at a time: a slow disk or pipe never blocks the loop.

    A block that cannot be written is kept, and retried with each flush; lines that do not fit into the native buffer
    meanwhile are dropped and counted. Other workers write to the same destination: pipes get at most PIPE_BUF bytes at
    a time (pipe(7): written atomically), files are locked while a block is written, so that a line cut short by a full
    disk is removed before anyone writes the next one.
    """

    def __init__(self, log: AccessLog, destination: str) -> None:
        """`destination`: stdout, stderr, or a file's path (appended to). OSError when it cannot be opened."""
        self._log = log
        self._destination = destination
        self._fd = _STREAMS.get(destination, -1)
        self._owned = self._fd < 0
        # for reading a file's last byte; -1 when it may not be read
        self._reading = -1
        if self._owned:
            self._fd = self._reading = _opened(destination)
        self._is_file = _is_file(self._fd)
        if self._is_file and not self._owned:
            self._reading = _shared(self._fd)
        # owned by the thread while it is busy
        self._pending = b""
        self._is_torn = False
        self._followed = 0.0
        self._trouble = ""
        self._retry_at = 0.0
        self._said = 0.0
        self._said_reopen = ""
        # shared by loop and thread
        self._jobs: queue.SimpleQueue[tuple[bytes, bool] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy: bool = False
        self._closing: bool = False
        # owned by the loop
        self._must_reopen = False
        self._given_up = 0
        self._said_lost = 0
        self._said_lost_at = 0.0

    @property
    def lost(self) -> int:
        """The number of lines permanently lost."""
        return self._log.dropped + self._given_up

    def flush(self) -> None:
        """Start writing pending lines, unless a write is in progress."""
        if self.lost != self._said_lost:
            self._say_lost()
        if self._busy or self._closing or (self._trouble and time.monotonic() < self._retry_at):
            return
        block = b"" if self._pending else self._log.drain()
        if block or self._pending or self._must_reopen:
            self._give(block)

    def reopen(self) -> None:
        """Reopen the file by name, because it may have been renamed (logrotate). On failure, keep the old one."""
        self._must_reopen = True
        self.flush()

    async def close(self) -> None:
        """Write the rest and close; after CLOSE_S, unwritten lines are lost, and counted. Idempotent."""
        if self._closing:
            return
        deadline = time.monotonic() + CLOSE_S
        is_idle = await self._idle(deadline)
        while is_idle:
            block = self._log.drain()
            if not block and not self._pending:
                break
            before = len(self._pending) + len(block)
            # After the block that could not be written before.
            self._pending, block = b"", self._pending + block
            self._give(block)
            is_idle = await self._idle(deadline)
            if is_idle and len(self._pending) >= before:
                break  # the destination fails, it is not merely slow
        self._closing = True
        is_idle = await self._idle(time.monotonic() + 2 * WAIT_S)
        self._jobs.put(None)
        self._given_up += self._pending.count(b"\n") + self._log.drain().count(b"\n")
        if self.lost != self._said_lost:
            self._say_lost(at_end=True)
        if is_idle:
            # A thread blocked in a write ends with the process; its descriptors stay open, so that none is reused.
            for descriptor in {self._fd, self._reading} - set(_STREAMS.values()) - {-1}:
                os.close(descriptor)

    def _give(self, block: bytes) -> None:
        """Pass a block to the thread, which must be idle."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()
        self._busy = True
        reopen, self._must_reopen = self._must_reopen, False
        self._jobs.put((block, reopen))

    async def _idle(self, deadline: float) -> bool:
        """Wait until the thread is idle; False at the deadline."""
        while self._busy and time.monotonic() < deadline:  # noqa: ASYNC110 - at the end, and only then
            await asyncio.sleep(0.005)
        return not self._busy

    def _say_lost(self, *, at_end: bool = False) -> None:
        now = time.monotonic()
        if at_end or now - self._said_lost_at >= SAY_S:
            _log.warning("access log: %d lines lost so far: the destination takes them too slowly, or none", self.lost)
            self._said_lost, self._said_lost_at = self.lost, now

    # ---------------------------------------------------------------- in the thread

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            block, reopen = job
            if block:
                self._pending = block
            try:
                if self._owned and (reopen or self._is_replaced()):
                    self._open_anew()
                if self._pending:
                    self._write()
            except OSError as error:
                self._fail(error)
            except Exception:  # noqa: BLE001 - a thread's edge: the next block is another one
                _log.exception("access log: %d lines are waiting", self._pending.count(b"\n"))
            finally:
                self._busy = False

    def _write(self) -> None:
        if self._is_file:
            self._write_file()
        else:
            self._write_stream()
        if self._trouble and not self._pending:
            _log.warning("access log: it can be written again; %d lines lost so far", self.lost)
            self._trouble = ""

    def _write_stream(self) -> None:
        waiting = select.poll()
        waiting.register(self._fd, select.POLLOUT)
        rest, at = self._pending, 0
        try:
            while at < len(rest):
                if not waiting.poll(WAIT_S * 1000):
                    if self._closing:
                        return
                    continue
                end = rest.rfind(b"\n", at, at + select.PIPE_BUF) + 1
                try:
                    at += os.write(self._fd, rest[at : end or at + select.PIPE_BUF])
                except BlockingIOError:
                    pass  # another writer was faster, and the pipe that we inherited is non-blocking
        finally:
            self._pending = rest[at:]

    def _write_file(self) -> None:
        with self._alone() as is_alone:
            if self._is_torn or self._ends_amid_a_line():
                # A killed process or a crash left part of a line: do not append our line to it.
                os.write(self._fd, b"\n")
                self._is_torn = False
            rest, at = memoryview(self._pending), 0
            try:
                while at < len(rest):
                    at += os.write(self._fd, rest[at:])
            finally:
                whole = self._pending.rfind(b"\n", 0, at) + 1
                if whole < at:
                    self._is_torn = not (is_alone and self._cut(at - whole))
                self._pending = self._pending[whole:]

    def _cut(self, length: int) -> bool:
        """Remove the written part of a line; False when that failed."""
        try:
            size = os.fstat(self._fd).st_size
            if size >= length:  # else the file was just truncated (logrotate's copytruncate)
                os.ftruncate(self._fd, size - length)
        except OSError:
            return False
        return True

    def _ends_amid_a_line(self) -> bool:
        size = os.fstat(self._fd).st_size
        if not size or self._reading < 0:
            return False
        try:
            return os.pread(self._reading, 1, size - 1) not in (b"\n", b"")
        except OSError:
            return False

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Lock the file against other workers and gateways; yields False when it could not be locked. The lock belongs
        to the process (fcntl), because workers may share one open file; it ends with the process, even when killed."""
        held = self._lock()
        try:
            yield held
        finally:
            if held:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN) or time.monotonic() > deadline:
                    return False
                time.sleep(0.001)
            else:
                return True

    def _is_replaced(self) -> bool:
        """Return whether the name now refers to another file, or to none. Checked every FOLLOW_S, because not every
        rotation sends a signal, and not every process of a gateway receives it."""
        now = time.monotonic()
        if now - self._followed < FOLLOW_S:
            return False
        self._followed = now
        try:
            there = Path(self._destination).stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        ours = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _open_anew(self) -> None:
        try:
            fresh = _opened(self._destination, like=os.fstat(self._fd))
        except OSError as error:
            if error.strerror != self._said_reopen:
                _log.error(
                    "access log: cannot reopen %s: %s; going on in the old file", self._destination, error.strerror
                )
            self._said_reopen = error.strerror or ""
            return
        self._said_reopen = ""
        self._is_torn = False  # was about the old file
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)
        self._is_file = _is_file(self._fd)

    def _fail(self, error: OSError) -> None:
        now = time.monotonic()
        self._retry_at = now + RETRY_S
        trouble = error.strerror or type(error).__name__
        if trouble != self._trouble or now - self._said >= SAY_S:
            self._trouble, self._said = trouble, now
            _log.error(
                "access log: cannot write: %s; %d lines wait, %d lines lost so far",
                trouble, self._pending.count(b"\n"), self.lost,
            )  # fmt: skip


def _opened(path: str, like: os.stat_result | None = None) -> int:
    """Open the file for appending, and create it if needed, with owner and mode of the previous one where permitted."""
    # Also for reading where allowed, to see its last byte. A FIFO opened this way does not wait for a reader.
    how = os.O_APPEND | os.O_CLOEXEC
    if like is not None:
        try:
            fresh = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | how, stat.S_IMODE(like.st_mode))
        except OSError:
            pass  # it exists (logrotate's create), or opening fails below
        else:
            with contextlib.suppress(OSError):
                os.fchown(fresh, like.st_uid, like.st_gid)
            return fresh
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | how, 0o640)
    except PermissionError:
        return os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o640)


def _is_file(descriptor: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False  # a standard stream that was closed before the start


def _shared(stream: int) -> int:
    """Set O_APPEND on a file that a shell opened for us, because others write to it too, and it may be truncated
    (copytruncate). Returns a descriptor for reading it, -1 when there can be none."""
    try:
        fcntl.fcntl(stream, fcntl.F_SETFL, fcntl.fcntl(stream, fcntl.F_GETFL) | os.O_APPEND)
        return os.open(f"/proc/self/fd/{stream}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
