"""The fork server: a process with everything imported and no event loop, from which workers are forked.

A fork takes milliseconds, where an interpreter that imports everything takes 0.1 s of a core. The imported code, two
thirds of a worker's memory, is in memory once, however many workers there are. Nothing that runs is forked: no loop, no
thread, no connection.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from budgateway.system import interpreter
from budgateway.system.signals import shielding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Self

START_S = 30.0  # an interpreter that imports everything, on a very busy machine
FORK_S = 2.0  # a fork server that takes longer is stopped or worse

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_PID = struct.Struct("=i")


class ForkServer:
    """The supervisor's handle of the fork server process."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.pid = process.pid
        self._process = process
        self._sock = sock
        self._asking = asyncio.Lock()
        self._is_ready = False

    @classmethod
    def spawn(cls, command: Sequence[str], inherited: Sequence[int]) -> Self:
        """Exec `command`, which ends in `become`, with the descriptor of its socket as the last word. Raises OSError
        when the system has no free process or descriptor."""
        adopt_orphans()
        # SOCK_SEQPACKET: each message is one packet and never arrives in part.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            process = launch(command, inherited, theirs)
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        return cls(process, ours)

    @property
    def lives(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    async def ready(self) -> None:
        """Wait until everything is imported. Raises OSError when that fails."""
        async with self._turn():
            pass

    async def fork(self) -> tuple[Fork, socket.socket]:
        """Return a new process, a child of this one, and our end of its control channel. Raises OSError when the fork
        fails."""
        async with self._turn():
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    socket.send_fds(self._sock, [b"."], [theirs.fileno()])
                pid = await self._answer(FORK_S)
                if pid < 0:
                    raise OSError(-pid, os.strerror(-pid))
                return Fork(pid), ours
            except BaseException:
                # A process that was forked meanwhile sees its channel closed, and ends.
                ours.close()
                raise

    def end(self) -> None:
        """Kill the process. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if not self._asking.locked():  # a pending `_answer` sees the end of the connection
            self._sock.close()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until the fork server is ready, and hold its lock: one request at a time."""
        async with self._asking:
            if self._sock.fileno() < 0:
                raise ConnectionError("the process ended")
            try:
                if not self._is_ready:
                    await self._answer(START_S)
                    self._is_ready = True
                yield
            finally:
                if not self.lives:
                    self._sock.close()

    async def _answer(self, seconds: float) -> int:
        try:
            async with asyncio.timeout(seconds):
                packet = await asyncio.get_running_loop().sock_recv(self._sock, _PID.size)
        except TimeoutError:
            raise OSError(f"no response within {seconds:.0f} s") from None
        if not packet:
            raise ConnectionError("the process ended")
        number: int = _PID.unpack(packet)[0]
        return number


class Fork:
    """A child that is waited for only here: the part of subprocess.Popen that a worker's process needs."""

    def __init__(self, pid: int) -> None:
        """Raises OSError when `pid` is not a child of this process."""
        self.pid = pid
        self.returncode: int | None = None
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def poll(self) -> int | None:
        """Return the exit status, or minus the number of the signal that ended it; None while it runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.returncode = 255  # someone else has reaped it
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; does nothing when the process has ended. Its pid is not reused until it is reaped here."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def launch(command: Sequence[str], inherited: Sequence[int], sock: socket.socket) -> subprocess.Popen[bytes]:
    """Exec `command` with the descriptor of `sock` as its last word; it inherits `inherited`, too. Closes `sock` here.
    Raises OSError when the system has no free process."""
    # The supervisor passes signals on itself: a Ctrl-C at the terminal must not reach workers directly.
    with sock, shielding():
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, str(sock.fileno())], env=interpreter.environment(),
            pass_fds=(*inherited, sock.fileno()), stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent has ended. Raises OSError where that is
    unsupported."""
    try:
        import ctypes  # nothing else needs it, and workers would hold it too

        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, AttributeError) as error:
        raise OSError(errno.ENOSYS, f"cannot adopt orphans: {error}") from error
    if refused:
        raise OSError(ctypes.get_errno(), "cannot adopt orphans")


def bury_orphans(ours: set[int]) -> None:
    """Reap children that are not in `ours`, which are reaped elsewhere: orphans of our descendants, and as process 1 of
    a container those of other processes."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in ours:
            return  # a child hidden behind one of ours is found next time
        os.waitpid(found.si_pid, os.WNOHANG)


def become(sock: socket.socket) -> int:
    """Run as the fork server from here on. Returns in each fork, with the descriptor of its control channel; the fork
    server itself exits when the supervisor does."""
    sock.sendall(_PID.pack(os.getpid()))
    while True:
        packet, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
        if not packet:
            sys.exit(0)
        (control,) = descriptors
        try:
            pid = _fork_orphan()
        except OSError as error:
            pid = -(error.errno or 1)
        if pid == 0:
            sock.close()
            os.setsid()
            return control
        os.close(control)
        sock.sendall(_PID.pack(pid))


def _fork_orphan() -> int:
    """Fork twice, so that the supervisor adopts the new process. Returns its pid here, 0 in it."""
    reading, writing = os.pipe()
    try:
        between = os.fork()
        if between == 0:
            return _fork_and_leave(writing, reading)
        os.waitpid(between, 0)
        os.set_blocking(reading, False)
        packet = os.read(reading, _PID.size)
    finally:
        os.close(reading)
        os.close(writing)
    pid: int = _PID.unpack(packet)[0]
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _fork_and_leave(writing: int, reading: int) -> int:
    """Fork in the intermediate process: returns 0 in the child, never in itself."""
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or 1)
    if pid:
        os.write(writing, _PID.pack(pid))
        os._exit(0)
    return 0
