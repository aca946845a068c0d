"""The worker pool: workers in their slots, each with a row of the segment, and the fork server that creates them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from typing import TYPE_CHECKING

from budgateway import native
from budgateway.app.preload import reads_keys
from budgateway.errors import GatewayError
from budgateway.process.fork_server import ForkServer
from budgateway.process.memory import proportional, resident
from budgateway.process.worker_handle import Served, Slot, WorkerHandle
from budgateway.system import interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from budgateway.records import Settings

CLOSE_S = 3.0  # for workers to stop accepting
MAX_ROWS = 64  # of a segment
SAY_S = 0.5  # time for a hung worker to print its stack before it is killed

_log = logging.getLogger("budgateway.supervisor")


class WorkerPool:
    """Starts worker processes and tracks which are alive; the supervisor decides when to start them."""

    def __init__(
        self, workers: int, spawn: Callable[[Coroutine[Any, Any, None]], None], *, with_guest: bool = False
    ) -> None:
        """`spawn` runs background work. `with_guest` adds a row for exchanges that still run in the predecessor, if
        there is room."""
        # A worker and its replacement need a row each.
        rows = min(2 * workers + with_guest, MAX_ROWS)
        self.segment = native.Segment(rows)
        self.guest_row = 2 * workers if rows > 2 * workers else None
        self.slots: list[Slot] = []
        self.alive: set[WorkerHandle] = set()
        # called when a worker saw a token of this issuer with an unknown key
        self.on_wanted: Callable[[WorkerHandle, str], None] | None = None
        # called with the records of traced exchanges
        self.on_spans: Callable[[bytes, int, int], None] | None = None
        self._spawn = spawn
        self._free_rows = list(range(2 * workers))
        # Eventfds, by row: a worker wakes another one that waits for the capacity it released (balance.queue).
        self._wakeup_fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(rows)]
        self._admin_path = ""
        self._keys = False
        self._fork_server: ForkServer | None = None
        self._why_none = ""
        self._stopping = False

    def open(self, slots: list[Slot], admin: str) -> None:
        """Set the slots to serve in and the path at which workers reach the admin server."""
        self.slots, self._admin_path = slots, admin

    def adopt(self, settings: Settings) -> None:
        """Note whether workers will read public keys, so that the fork server imports what that needs."""
        before, self._keys = self._keys, reads_keys(settings)
        if self._keys and not before:
            self._replace_fork_server(None)

    def stop(self) -> None:
        """Start no further process: one that is being started fails with OSError."""
        self._stopping = True
        self.keep_fork_server(False)

    def close(self) -> None:
        """Release everything. No process may be alive any more."""
        self.keep_fork_server(False)
        for wakeup_fd in self._wakeup_fds:
            os.close(wakeup_fd)

    async def start(self, slot: Slot, served: Callable[[], Served]) -> WorkerHandle:
        """Start a worker for the slot, with a task that follows it to its end. `served` is called at the moment the
        worker begins, and returns what it serves. Raises OSError when the system has no free process."""
        while not self._free_rows:  # noqa: ASYNC110 - until an old worker has drained
            await asyncio.sleep(0.05)
        row = self._free_rows.pop(0)
        try:
            worker = await self._process()
        except OSError:
            self._free_rows.append(row)
            raise
        self.alive.add(worker)
        try:
            await worker.serve(slot, row, served())
        except BaseException:
            worker.row = row
            worker.kill()  # nobody else knows of it; `_follow` frees its row
            raise
        return worker

    async def drain(self) -> None:
        """Drain every worker; wait up to CLOSE_S until none accepts any more."""
        workers = tuple(self.alive)
        for worker in workers:
            worker.drain()
        try:
            async with asyncio.timeout(CLOSE_S):
                for worker in workers:
                    await worker.stopped.wait()
        except TimeoutError:
            _log.warning("some workers have not confirmed that they stopped accepting")

    def keep_fork_server(self, wanted: bool) -> None:
        """Ensure that a fork server runs, or none. Call this repeatedly: the death of a fork server is not reported."""
        if self._fork_server is not None and not (wanted and self._fork_server.lives):
            self._replace_fork_server(None)
        if wanted and self._fork_server is None:
            try:
                self._fork_server = self._new_fork_server()
                self._why_none = ""
            except OSError as error:
                if str(error) != self._why_none:  # it is tried again every second
                    _log.warning("the fork server cannot be started: %s", error)
                self._why_none = str(error)

    async def renew(self) -> None:
        """Make new workers run the version installed now. Raises GatewayError when that does not start."""
        if self._fork_server is None:
            return  # without a fork server each worker is started by exec
        try:
            fork_server = self._new_fork_server()
        except OSError as error:
            raise GatewayError(f"no process can be started: {error}") from error
        try:
            await fork_server.ready()
        except BaseException as error:
            fork_server.end()
            if isinstance(error, OSError):
                raise GatewayError(f"the installed version does not start: {error}") from error
            raise
        self._replace_fork_server(fork_server)

    def _replace_fork_server(self, fork_server: ForkServer | None) -> None:
        if self._fork_server is not None:
            self._fork_server.end()  # it holds copies of the listening sockets
        self._fork_server = fork_server

    async def _process(self) -> WorkerHandle:
        worker = None
        if (fork_server := self._fork_server) is not None:
            try:
                worker = await WorkerHandle.fork(fork_server)
            except OSError as error:
                if not self._stopping:
                    _log.warning("the fork server cannot fork, so a worker is started without it: %s", error)
                fork_server.end()
        if worker is None:
            if self._stopping:
                # Its sockets are closed already, or will be.
                raise InterruptedError(errno.EINTR, "the gateway is stopping")
            worker = await WorkerHandle.spawn([*self._command(), "--control"], self._inherited())
        worker.on_wanted = self.on_wanted
        worker.on_spans = self.on_spans
        self._spawn(self._follow(worker))
        return worker

    def _new_fork_server(self) -> ForkServer:
        return ForkServer.spawn([*self._command(), "--fork-server"], self._inherited())

    def _command(self) -> list[str]:
        """Return the command of a process with the segment, every slot's sockets and every row's eventfd. The caller
        appends the option for the control channel."""
        listening = [",".join(str(sock.fileno()) for sock in slot.sockets) for slot in self.slots]
        command = [
            *interpreter.command(),
            "-m",
            "budgateway.process.worker",
            "--segment",
            str(self.segment.fd),
            "--admin",
            self._admin_path,
            *(["--keys"] if self._keys else []),
        ]
        return [*command, "--listening", *listening, "--wakeup-fds", *map(str, self._wakeup_fds)]

    def _inherited(self) -> list[int]:
        return [self.segment.fd, *(sock.fileno() for slot in self.slots for sock in slot.sockets), *self._wakeup_fds]

    async def _follow(self, worker: WorkerHandle) -> None:
        try:
            await worker.run()
        finally:
            self.alive.discard(worker)
        if worker.row >= 0:
            self.slots[worker.index].lines_lost += self.segment.gauge(worker.row, native.GAUGE_LINES_LOST)
            self.segment.clear_worker(worker.row)
            self._free_rows.append(worker.row)

    # ---------------------------------------------------------------- looking after them

    async def end_hung(self, elapsed_s: float, step_s: float, timeout_s: float) -> None:
        """Kill workers whose event loop has stood still for `timeout_s`. Call this every `step_s`; `elapsed_s` is the
        time since the last call."""
        for worker in tuple(self.alive):
            tick = self.segment.gauge(worker.row, native.GAUGE_TICK)
            still_s = worker.heartbeat.hear(tick, elapsed_s, step_s)
            # One look after a gap proves nothing.
            if not timeout_s or still_s < max(timeout_s, 2 * step_s):
                continue
            _log.error(
                "worker %d (pid %d): its event loop has been blocked for %.0f s; killing it. Its stack:",
                worker.index, worker.pid, still_s,
            )  # fmt: skip
            self.slots[worker.index].hung += 1
            worker.say_where()
            await asyncio.sleep(SAY_S)
            worker.kill()

    def pids(self) -> set[int]:
        """Return the pids of all child processes."""
        return {process.pid for process in (*self.alive, self._fork_server) if process is not None}

    async def held_bytes(self, matters_bytes: int) -> int:
        """Return the memory that this process and its children hold: an upper bound below `matters_bytes`, else
        exact."""
        pids = {os.getpid(), *self.pids()}
        most = sum(map(resident, pids))
        # In a thread, because each look walks all pages.
        return most if most < matters_bytes else await asyncio.to_thread(lambda: sum(map(proportional, pids)))

    def facts(self) -> list[dict[str, Any]]:
        """Return each worker's state for the admin endpoints, draining workers included."""
        slots = {slot.worker: slot for slot in self.slots if slot.worker is not None}
        now = time.monotonic()
        return [
            {
                "worker": worker.index,
                "pid": worker.pid,
                "row": worker.row,
                "state": "draining" if worker.is_draining else "ready" if worker.ready.is_set() else "starting",
                "uptime_s": round(now - worker.started, 1),
                "rss_bytes": resident(worker.pid),
                "shedding": worker.shedding,
                "accepts": worker.accepts,
                "restarts": slots[worker].restarts if worker in slots else 0,
                "hung": slots[worker].hung if worker in slots else 0,
                "access_lines_lost": self.segment.gauge(worker.row, native.GAUGE_LINES_LOST)
                + (slots[worker].lines_lost if worker in slots else 0),
                "connections": self.segment.gauge(worker.row, native.GAUGE_CONNECTIONS),
                "in_flight": self.segment.gauge(worker.row, native.GAUGE_EXCHANGES),
            }
            for worker in sorted(self.alive, key=lambda worker: (worker.index, worker.started))
        ]
