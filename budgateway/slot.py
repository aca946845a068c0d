"""A worker as its supervisor sees it: the process from exec to its end, and the slot whose socket outlives it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from budgateway.control import (
    Abort,
    Channel,
    Commit,
    Message,
    Prepare,
    Prepared,
    Ready,
    Serve,
    Shedding,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from budgateway import native
    from budgateway.records import Settings

REAP_S = 0.005


class WorkerGone(Exception):
    """The worker ended before it answered."""


class Worker:
    """One process. `run` must be awaited in a task of its own: it hears what the worker says and when it ends."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, *, index: int, row: int) -> None:
        self.index = index
        self.row = row
        self.pid = process.pid
        self.started = time.monotonic()
        self.status: int | None = None
        self.is_draining = False
        self.shedding = ""
        self.generation = 0
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._process = process
        self._channel = channel
        self._answers: asyncio.Queue[Prepared | None] = asyncio.Queue()

    @classmethod
    async def start(
        cls,
        slot: Slot,
        *,
        row: int,
        segment: native.Segment,
        office: str,
        settings: Settings,
        bells: Sequence[int],
    ) -> Self:
        """Exec a worker that inherits the segment, the slot's socket, one end of a control channel and every row's bell.
        OSError when the system has no process or descriptor to spare."""
        ours, theirs = socket.socketpair()
        inherited = (segment.fd, slot.sock.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "budgateway.worker"]
        for name, value in zip(("segment", "listen", "control"), inherited, strict=True):
            command += [f"--{name}", str(value)]
        command += ["--index", str(slot.index), "--row", str(row), "--office", office]
        command += ["--bells", *map(str, bells)]
        try:
            # Signals are ours to pass on: a Ctrl-C at the terminal must not reach workers behind our back.
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own interpreter and module; exec takes a millisecond
                command, pass_fds=(*inherited, *bells), stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = cls(process, await Channel.over(ours), index=slot.index, row=row)
        await worker._tell(Serve(settings))
        return worker

    async def run(self) -> None:
        """Listen to the worker until it is gone; `status` is then known."""
        try:
            # The channel closes when the process ends, however it ends.
            while (message := await self._channel.receive()) is not None:
                if isinstance(message, Ready):
                    self.ready.set()
                elif isinstance(message, Prepared):
                    self._answers.put_nowait(message)
                elif isinstance(message, Shedding):
                    self.shedding = message.reason
        finally:
            self._channel.close()
            self._answers.put_nowait(None)
        # It is at its very end; a thread would be more than this wait deserves.
        while self._process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(REAP_S)
        self.status = self._process.returncode
        self.ended.set()

    async def prepare(self, generation: int, settings: Settings) -> str:
        """Have it build `settings`: "" when it could switch, else why not. WorkerGone when it ended meanwhile."""
        await self._tell(Prepare(generation, settings))
        while True:
            answer = await self._answers.get()
            if answer is None:
                self._answers.put_nowait(None)
                raise WorkerGone
            if answer.generation == generation:
                return answer.problem

    async def commit(self, generation: int) -> None:
        """Have it switch."""
        self.generation = generation
        await self._tell(Commit(generation))

    async def abort(self, generation: int) -> None:
        """Have it drop what it prepared."""
        await self._tell(Abort(generation))

    async def tell(self, message: Message) -> None:
        """Send it a message that has no answer; nothing happens when it is gone."""
        await self._tell(message)

    def drain(self) -> None:
        """Have it end when its exchanges have; a second time: at once."""
        self.is_draining = True
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it now."""
        if self._process.poll() is None:
            self._process.kill()

    async def _tell(self, message: Message) -> None:
        try:
            await self._channel.send(message)
        except ConnectionError:
            pass  # `run` hears of it


class Slot:
    """A worker's place: its socket, which stays open whatever happens to the process, and who serves it now."""

    def __init__(self, index: int, sock: socket.socket) -> None:
        self.index = index
        self.sock = sock
        self.worker: Worker | None = None
        self.restarts = 0

    @property
    def is_ready(self) -> bool:
        """Whether somebody accepts connections here."""
        return self.worker is not None and self.worker.ready.is_set() and not self.worker.ended.is_set()
