"""The supervisor's handle of a worker: its process from start to end, and the slot whose socket outlives it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from budgateway.process.control import (
    Abort,
    Channel,
    Commit,
    CredentialsUpdated,
    Message,
    Prepare,
    Prepared,
    Ready,
    Serve,
    Shedding,
    Spans,
    Stopped,
    UpdateCredentials,
    Wanted,
)
from budgateway.process.fork_server import Fork, ForkServer, launch
from budgateway.process.memory import Heartbeat
from budgateway.system.signals import SAY_WHERE

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence
    from typing import Self

    from budgateway.auth.credential_store import CredentialSet
    from budgateway.config.packing import Packed
    from budgateway.records import Settings

REAP_S = 0.005
RESPAWN_MIN_S = 0.1
RESPAWN_MAX_S = 5.0
RESPAWN_AT_ONCE = 3  # deaths in a row without having served, before restarts are delayed
HEED_S = 2.0  # how long a change of keys waits for a worker that hangs

_log = logging.getLogger("budgateway.supervisor")


class Served(NamedTuple):
    """The settings and state with which a new worker begins to serve."""

    settings: Settings
    generation: int
    credentials: CredentialSet
    accepts: bool  # False: connections wait until the worker is set to accept
    replaces: bool  # a worker that has served: a temporarily missing resource must not stop this one


class WorkerGone(Exception):
    """The worker ended before it answered."""


class WorkerHandle:
    """One worker process. `run` must be awaited in its own task: it receives the worker's messages and notices its
    end."""

    def __init__(self, process: subprocess.Popen[bytes] | Fork, channel: Channel) -> None:
        # process
        self.pid = process.pid
        self.status: int | None = None
        self.is_draining = False
        self.shedding = ""
        self.accepts = True
        self.generation = 0
        self.ready = asyncio.Event()
        self.stopped = asyncio.Event()  # it accepts no more
        self.ended = asyncio.Event()
        self.heartbeat = Heartbeat()
        self._process = process
        self._channel = channel
        self._answers: asyncio.Queue[Prepared | None] = asyncio.Queue()
        self._credentials_updated: dict[int, asyncio.Future[None]] = {}
        self._is_deaf = False
        # called when the worker saw a token of this issuer with an unknown key
        self.on_wanted: Callable[[WorkerHandle, str], None] | None = None
        # called with the records of traced exchanges
        self.on_spans: Callable[[bytes, int, int], None] | None = None
        # its slot and row, once it serves
        self.index = -1
        self.row = -1
        self.started = time.monotonic()
        self.ready_at = 0.0

    @classmethod
    async def spawn(cls, command: Sequence[str], inherited: Sequence[int]) -> Self:
        """Exec `command`, with the descriptor of its control channel as the last word. The process waits for a Serve
        message. Raises OSError when the system has no free process or descriptor."""
        ours, theirs = socket.socketpair()
        try:
            process = launch(command, inherited, theirs)
        except OSError:
            ours.close()
            raise
        return cls(process, await Channel.over(ours))

    @classmethod
    async def fork(cls, fork_server: ForkServer) -> Self:
        """Fork a worker from the fork server. Raises OSError when that fails."""
        process, ours = await fork_server.fork()
        return cls(process, await Channel.over(ours))

    async def serve(self, slot: Slot, row: int, served: Served) -> None:
        """Make the worker serve in a slot; does nothing when it is gone."""
        self.index, self.row, self.started = slot.index, row, time.monotonic()
        self.generation, self.accepts = served.generation, served.accepts
        told = Serve(
            served.settings,
            served.credentials,
            index=slot.index,
            row=row,
            accepts=served.accepts,
            replaces=served.replaces,
        )
        await self._tell(told)

    async def run(self) -> None:
        """Receive the worker's messages until it is gone; `status` is set then."""
        try:
            # The channel closes when the process ends, however it ends.
            while (message := await self._channel.receive()) is not None:
                if isinstance(message, Ready):
                    self.ready_at = time.monotonic()
                    self.ready.set()
                elif isinstance(message, Stopped):
                    self.stopped.set()
                elif isinstance(message, Prepared):
                    self._answers.put_nowait(message)
                elif isinstance(message, CredentialsUpdated):
                    self._heeded(message.number)
                elif isinstance(message, Shedding):
                    self.shedding = message.reason
                elif isinstance(message, Spans):
                    if self.on_spans is not None:
                        self.on_spans(message.records, message.kept, message.dropped)
                elif isinstance(message, Wanted) and self.on_wanted is not None:
                    self.on_wanted(self, message.issuer)
        except Exception:  # noqa: BLE001 - a background task's edge
            # A worker that sends unreadable messages is replaced: nobody would notice its end otherwise.
            _log.exception("worker %d (pid %d) is killed: it sent an invalid message", self.index, self.pid)
            self.kill()
        finally:
            self._channel.close()
            self._answers.put_nowait(None)
            self._is_deaf = True
            self._heeded(max(self._credentials_updated, default=0))
            self.stopped.set()
        # The process is about to exit; this wait is too short for a thread.
        while self._process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(REAP_S)
        self.status = self._process.returncode
        self.ended.set()

    async def prepare(self, generation: int, packed: Packed) -> str:
        """Make the worker build the settings in `packed`; return "" when it could switch, else the reason. Raises WorkerGone when it
        ended meanwhile."""
        await self._tell(Prepare(generation, packed))
        while True:
            answer = await self._answers.get()
            if answer is None:
                self._answers.put_nowait(None)
                raise WorkerGone
            if answer.generation == generation:
                return answer.problem

    async def commit(self, generation: int) -> None:
        """Make the worker switch to what it prepared."""
        self.generation = generation
        await self._tell(Commit(generation))

    async def abort(self, generation: int) -> None:
        """Make the worker drop what it prepared."""
        await self._tell(Abort(generation))

    async def update_credentials(self, credentials: CredentialSet) -> None:
        """Send new credentials. Returns when the worker uses them, or after HEED_S when it hangs; does not wait for one
        that is not ready."""
        if self._is_deaf or not self.ready.is_set():
            await self._tell(UpdateCredentials(credentials))
            return
        heeded = self._credentials_updated[credentials.number] = asyncio.get_running_loop().create_future()
        await self._tell(UpdateCredentials(credentials))
        await asyncio.wait((heeded,), timeout=HEED_S)
        self._credentials_updated.pop(credentials.number, None)

    def _heeded(self, number: int) -> None:
        for due in [due for due in self._credentials_updated if due <= number]:
            heeded = self._credentials_updated.pop(due)
            if not heeded.done():
                heeded.set_result(None)

    async def tell(self, message: Message) -> None:
        """Send a message that has no answer; does nothing when the worker is gone."""
        await self._tell(message)

    def drain(self) -> None:
        """Make the worker end after its exchanges; a second call ends it at once."""
        self.is_draining = True
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the worker now."""
        if self._process.poll() is None:
            self._process.kill()

    def say_where(self) -> None:
        """Make the worker write its stack to its standard error."""
        if self._process.poll() is None:
            self._process.send_signal(SAY_WHERE)

    async def _tell(self, message: Message) -> None:
        # Without waiting: a hung worker must not block the supervisor and its work for others.
        try:
            self._channel.post(message)
        except ConnectionError:
            pass  # `run` notices the end
        except TimeoutError:
            self.kill()


class Slot:
    """A worker's place: its listening sockets, which stay open whatever happens to the process, and its current
    worker."""

    def __init__(self, index: int, sock: socket.socket) -> None:
        self.index = index
        self.sock = sock
        # Sockets of a predecessor with more workers: clients queued in a socket that is closed would be refused.
        self.others: list[socket.socket] = []
        self.worker: WorkerHandle | None = None
        self.restarts = 0
        self.hung = 0  # restarts because the event loop hung
        self.lines_lost = 0  # access log lines lost by workers that have ended

    @property
    def sockets(self) -> list[socket.socket]:
        """Return all sockets that its worker accepts from."""
        return [self.sock, *self.others]

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        for sock in self.sockets:
            sock.close()

    @property
    def is_ready(self) -> bool:
        """Return whether a worker accepts connections here."""
        return self.worker is not None and self.worker.ready.is_set() and not self.worker.ended.is_set()


def respawn_delay_s(young_deaths: int) -> float:
    """Return the delay before the next start; it grows with the number of workers in a row that ended before they
    served."""
    if young_deaths <= RESPAWN_AT_ONCE:
        return 0.0
    return min(RESPAWN_MIN_S * 2.0 ** min(young_deaths - RESPAWN_AT_ONCE - 1, 16), RESPAWN_MAX_S)
