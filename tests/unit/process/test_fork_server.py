"""A spare that cannot be had: workers are then started without one, and that is said once. And how its forks end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import subprocess
import sys

import pytest

from budgateway.process.fork_server import _PID, Fork, ForkServer
from budgateway.process.worker_handle import Slot
from budgateway.process.worker_pool import WorkerPool


def test_why_there_is_no_spare_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    worker_pool = WorkerPool(1, lambda work: work.close())
    worker_pool.open([], "")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            worker_pool.keep_fork_server(True)
    worker_pool.close()
    (record,) = caplog.records
    assert "cannot adopt orphans" in record.getMessage()


async def test_no_process_is_started_once_the_gateway_stops() -> None:
    """A stop in the middle of a start: the fork server ends, and the sockets of the slots are closed."""
    worker_pool = WorkerPool(1, lambda work: work.close())
    slot = Slot(0, socket.socket())
    worker_pool.open([slot], "")
    worker_pool.stop()
    slot.close()
    for _ in range(3):  # more often than there are rows
        with pytest.raises(InterruptedError):
            await worker_pool.start(slot, lambda: pytest.fail("no worker begins"))
    assert not worker_pool.alive
    worker_pool.close()


@pytest.mark.parametrize(("number", "status"), [(0, 7), (signal.SIGKILL, -9)])
def test_how_a_fork_ended_is_told_as_of_any_process(number: int, status: int) -> None:
    program = "import sys; sys.stdin.read(); sys.exit(7)"
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, reading, 0)]
    fork = Fork(os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ, file_actions=actions))
    os.close(reading)
    assert fork.poll() is None
    fork.send_signal(number)
    os.close(writing)
    os.waitid(os.P_PID, fork.pid, os.WEXITED | os.WNOWAIT)
    assert fork.poll() == status
    fork.kill()  # nobody: its number may be somebody else's by now
    assert fork.returncode == status


async def test_a_spare_that_may_not_fork_says_why_and_one_that_ended_says_no_more() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    # It says that it is ready and that it may not, and ends when its input does.
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with process, theirs:
        fork_server = ForkServer(process, ours)
        theirs.send(_PID.pack(process.pid))
        theirs.send(_PID.pack(-errno.EAGAIN))
        with pytest.raises(OSError) as refused:
            await fork_server.fork()
        assert refused.value.errno == errno.EAGAIN
        assert fork_server.lives
        forking = asyncio.create_task(fork_server.fork())
        await asyncio.sleep(0)
        process.kill()
        process.wait()
        theirs.close()
        with pytest.raises(ConnectionError):
            await forking
        assert ours.fileno() == -1
        with pytest.raises(ConnectionError, match="the process ended"):
            await fork_server.fork()
