"""The supervisor: owns the segment, the sockets and the back office; starts workers and replaces those that die."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import uvloop

from budgateway import native
from budgateway.admin.desk import Desk
from budgateway.banner import banner
from budgateway.config.demo import moved
from budgateway.demo import DemoServer
from budgateway.errors import GatewayError
from budgateway.runtime import bound_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.records import Settings

RESPAWN_MIN_S = 0.1
RESPAWN_MAX_S = 5.0
START_S = 30.0  # a worker that is not ready by then is replaced

_log = logging.getLogger("budgateway.supervisor")


class StartFailed(GatewayError):
    """The gateway could not start: a port is taken, or workers die at once."""

    code = "start_failed"
    who = "operator"


class WorkerSlot:
    """One worker's place: its socket, which stays open whatever happens to the process, and the process."""

    def __init__(self, index: int, sock: socket.socket) -> None:
        self.index = index
        self.sock = sock
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.ready = False
        self.backoff_s = RESPAWN_MIN_S


class Supervisor:
    """Runs on its own loop until told to stop; `stop` drains all workers."""

    def __init__(self, settings: Settings, announce: Callable[[Settings, str], None]) -> None:
        """`announce(settings, metrics_url)` is called once, when every worker is ready."""
        self._settings = settings
        self._announce = announce
        self._segment = native.Segment(settings.workers)
        self._desk = Desk(settings, self._segment, self._is_ready)
        self._slots: list[WorkerSlot] = []
        self._stopping = asyncio.Event()
        self._failed: StartFailed | None = None
        self._announced = False
        self.port = settings.port

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. StartFailed when that cannot begin."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            self._bind()
            try:
                await self._desk.open()
            except OSError as error:
                raise StartFailed(
                    f"cannot listen for metrics on {settings.metrics_host}:{settings.metrics_port}: {error.strerror}",
                    hint="set METRICS_PORT, or ENABLE_METRICS=false",
                ) from error
            keepers = [asyncio.create_task(self._keep(slot), name=f"worker {slot.index}") for slot in self._slots]
            await self._stopping.wait()
            await self._stop(keepers)
        finally:
            await self._desk.close()
            for slot in self._slots:
                slot.sock.close()
        if self._failed is not None:
            raise self._failed

    def _bind(self) -> None:
        settings = self._settings
        host, port = settings.host, settings.port
        try:
            for index in range(settings.workers):
                sock = bound_socket(host, port)
                self._slots.append(WorkerSlot(index, sock))
                port = sock.getsockname()[1]
                # Listening from here on: connections queue until their worker is up, and nobody is refused.
                sock.listen(4096)
        except OSError as error:
            raise StartFailed(
                f"cannot listen on {host}:{port}: {error.strerror}", hint="set GATEWAY_PORT, or give --port"
            ) from error
        self.port = port

    def _is_ready(self) -> bool:
        return not self._stopping.is_set() and all(slot.ready for slot in self._slots)

    async def _keep(self, slot: WorkerSlot) -> None:
        """Have a worker in this slot for as long as the gateway runs."""
        while not self._stopping.is_set():
            began = time.monotonic()
            self._start(slot)
            await self._watch(slot)
            self._segment.clear_worker(slot.index)
            slot.ready = False
            if self._stopping.is_set():
                return
            code = slot.process.returncode if slot.process is not None else None
            if not self._announced:
                self._failed = StartFailed(f"worker {slot.index} ended at its start with status {code}")
                self._stopping.set()
                return
            if time.monotonic() - began > RESPAWN_MAX_S:
                slot.backoff_s = RESPAWN_MIN_S
            _log.error("worker %d ended with status %s; starting another in %.1f s", slot.index, code, slot.backoff_s)
            await asyncio.sleep(slot.backoff_s)
            slot.backoff_s = min(slot.backoff_s * 2, RESPAWN_MAX_S)

    def _start(self, slot: WorkerSlot) -> None:
        """Exec a worker with the segment, its socket, a control pipe and the settings as descriptors."""
        ours, theirs = socket.socketpair()
        read_fd, write_fd = os.pipe()
        payload = pickle.dumps(self._settings)
        inherited = (self._segment.fd, slot.sock.fileno(), theirs.fileno(), read_fd)
        command = [sys.executable, "-m", "budgateway.worker"]
        for name, value in zip(("segment", "listen", "control", "settings"), inherited, strict=True):
            command += [f"--{name}", str(value)]
        command += ["--index", str(slot.index), "--office", self._desk.path]
        try:
            # Signals are ours to pass on: a Ctrl-C at the terminal must not reach workers behind our back.
            slot.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command, pass_fds=inherited, stdin=subprocess.DEVNULL, start_new_session=True
            )
        finally:
            theirs.close()
            os.close(read_fd)
        with os.fdopen(write_fd, "wb") as pipe:
            pipe.write(payload)
        ours.setblocking(False)
        slot.control = ours

    async def _watch(self, slot: WorkerSlot) -> None:
        """Wait for "ready", then for the end: the control pipe closes when the process is gone, however it went."""
        loop = asyncio.get_running_loop()
        control, process = slot.control, slot.process
        assert control is not None
        assert process is not None
        try:
            async with asyncio.timeout(START_S):
                if await loop.sock_recv(control, 64):
                    slot.ready = True
                    self._say_ready()
            while slot.ready and await loop.sock_recv(control, 64):
                pass
        except TimeoutError:
            _log.error("worker %d was not ready within %.0f s", slot.index, START_S)
            process.kill()
        except ConnectionError:
            pass
        finally:
            control.close()
        # The pipe is closed, so the process is at its very end; a thread would be more than this wait deserves.
        while process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def _say_ready(self) -> None:
        if not self._announced and all(slot.ready for slot in self._slots):
            self._announced = True
            self._announce(dataclasses.replace(self._settings, port=self.port), self._desk.metrics_url)

    async def _stop(self, keepers: list[asyncio.Task[None]]) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.process.terminate()
        _, late = await asyncio.wait(keepers, timeout=self._settings.drain_s + 5)
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.process.kill()
        for task in late:
            task.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


def run(settings: Settings, *, demo: bool = False) -> int:
    """Run the gateway until it is told to stop; the exit status. With `demo`, the settings' provider is moved to an
    embedded model server that lives as long as the gateway."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        uvloop.run(_serve_demo(settings) if demo else _serve(settings))
    except StartFailed as error:
        sys.stderr.write(f"budgateway: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    await Supervisor(settings, _announce).run()


async def _serve_demo(settings: Settings) -> None:
    async with DemoServer() as demo:
        await _serve(moved(settings, demo.url))


def _announce(settings: Settings, metrics_url: str) -> None:
    sys.stdout.write(banner(settings, version=version("budgateway"), metrics_url=metrics_url))
    sys.stdout.flush()
