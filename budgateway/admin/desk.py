"""Opens the back office: its unix socket for the workers, and the metrics listener."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.admin.models import ModelCatalogue
from budgateway.admin.office import BackOffice
from budgateway.observe.metrics import Exposition
from budgateway.runtime import SWEEP_S, targets_of
from budgateway.server.connection_cy import Door

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from budgateway.records import Settings
    from budgateway.transport.client_cy import Pool


class Desk:
    """The back office's doors. `path` is where workers reach it; it exists from construction on, mode 0700."""

    def __init__(self, settings: Settings, segment: native.Segment, ready: Callable[[], bool]) -> None:
        self._settings = settings
        self._segment = segment
        self._ready = ready
        self._folder = Path(tempfile.mkdtemp(prefix="budgateway-"))
        self.path = str(self._folder / "office.sock")
        self.metrics_url = ""
        self._doors: list[Door] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Listen. OSError when the metrics port is taken."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        pools: dict[str, Pool] = {}
        catalogue = ModelCatalogue(
            [(provider, targets_of(provider, pools, disclose=False)) for provider in settings.providers]
        )
        exposition = Exposition(self._segment)

        def office(public_only: bool) -> BackOffice:
            return BackOffice(
                exposition=exposition,
                catalogue=catalogue,
                ready=self._ready,
                spawn=self._spawn,
                version=version("budgateway"),
                public_only=public_only,
            )

        self._servers.append(await loop.create_unix_server(self._door(office(False)).connect, self.path))
        if settings.metrics_enabled and settings.metrics_port >= 0:
            server = await loop.create_server(
                self._door(office(True)).connect, settings.metrics_host, settings.metrics_port
            )
            self._servers.append(server)
            host, port = server.sockets[0].getsockname()[:2]
            self.metrics_url = f"http://{host}:{port}/metrics"
        self._sweep_timer = loop.call_later(SWEEP_S, self._sweep)

    async def close(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for server in self._servers:
            server.close()
        for door in self._doors:
            for connection in tuple(door.connections):
                connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _door(self, office: BackOffice) -> Door:
        door = Door(
            office,
            asyncio.get_running_loop().call_soon,
            keepalive_ns=75_000_000_000,
            head_timeout_ns=10_000_000_000,
            max_body_bytes=1024 * 1024,
            max_connections=1024,
        )
        self._doors.append(door)
        return door

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _sweep(self) -> None:
        now_ns = time.monotonic_ns()
        for door in self._doors:
            door.sweep(now_ns)
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
