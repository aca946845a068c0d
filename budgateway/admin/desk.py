"""Opens the back office: its unix socket for workers and for the operator of this machine, and the metrics listener."""

from __future__ import annotations

import asyncio
import socket
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.admin.api import AdminApi, Operations
from budgateway.admin.card import leave_card, runtime_directory
from budgateway.admin.fetch import fetch
from budgateway.admin.folder import HANDOVER, OFFICE, Folder
from budgateway.admin.health import Health, watched
from budgateway.admin.models import ModelCatalogue
from budgateway.admin.office import BackOffice
from budgateway.admin.rates import SAMPLE_S, Rates
from budgateway.admin.usage import UsageReport
from budgateway.auth.roles import Roles, Visibility
from budgateway.health.watch import Watch
from budgateway.observe.metrics import Exposition
from budgateway.runtime import SWEEP_S, bound_socket
from budgateway.server.connection_cy import protocols
from budgateway.server.door_cy import Door
from budgateway.wiring import Pools, targets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from budgateway.records import Settings


class Desk:
    """The back office's doors. `path` is where workers reach it; it exists from construction on, mode 0700."""

    def __init__(
        self, settings: Settings, segment: native.Segment, ready: Callable[[], bool], operations: Operations
    ) -> None:
        self._settings = settings
        self._operations = operations
        self._watch = Watch(segment, fetch)
        self._health = Health(segment, settings, self._watch)
        self._rates = Rates(native.Metrics(segment))
        self._rates_due = 0.0
        self._usage = UsageReport(native.UsageTable(segment))
        self._offices: list[BackOffice] = []
        self._card: Path | None = None
        self._metrics_sock: socket.socket | None = None
        self._segment = segment
        self._ready = ready
        # As a service, where its operator can reach it: /tmp is private there.
        self._folder = Folder(runtime_directory())
        self.path = str(self._folder.path / OFFICE)
        self.metrics_url = ""
        self._doors: list[Door] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None

    @property
    def handover(self) -> Path:
        """Where the listening sockets can be had (`handover`)."""
        return self._folder.path / HANDOVER

    @property
    def metrics_socket(self) -> socket.socket | None:
        """The metrics listener's, when there is one."""
        return self._metrics_sock

    async def open(self, metrics_sock: socket.socket | None = None) -> None:
        """Listen; for metrics on `metrics_sock` when that is given. OSError when the metrics port is taken."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        catalogue = _catalogue(settings)
        visibility = Visibility(Roles(settings.auth), settings.routes)
        exposition = Exposition(self._segment, self._operations.facts, self._health.upstreams)
        self._watch.adopt(*watched(settings, self._segment))
        running = version("budgateway")
        api = AdminApi(self._operations, self._health, self._rates, running, self._usage)

        def office(public_only: bool) -> BackOffice:
            made = BackOffice(
                exposition=exposition,
                catalogue=catalogue,
                visibility=visibility,
                api=None if public_only else api,
                ready=self._ready,
                without=self._health.routes_without_upstream,
                spawn=self._spawn,
                version=running,
                public_only=public_only,
            )
            self._offices.append(made)
            return made

        self._servers.append(await loop.create_unix_server(protocols(self._door(office(False))), self.path))
        if settings.metrics_enabled and settings.metrics_port:
            sock = metrics_sock or bound_socket(settings.metrics_host, settings.metrics_port)
            self._metrics_sock = sock
            server = await loop.create_server(protocols(self._door(office(True))), sock=sock)
            self._servers.append(server)
            host, port = sock.getsockname()[:2]
            self.metrics_url = f"http://{host}:{port}/metrics"
        self._sweep_timer = loop.call_later(SWEEP_S, self._sweep)

    def adopt(self, settings: Settings) -> None:
        """Follow a reload: other upstreams to show and to ask."""
        known = {upstream.url for provider in self._settings.providers for upstream in provider.upstreams}
        self._settings = settings
        self._health.adopt(settings)
        self._watch.adopt(*watched(settings, self._segment, known))
        catalogue = _catalogue(settings)
        visibility = Visibility(Roles(settings.auth), settings.routes)
        for office in self._offices:
            office.catalogue = catalogue
            office.visibility = visibility

    def register(self, url: str) -> None:
        """Leave a card where `budgateway status` looks, as the gateway is up under this URL."""
        self._card = leave_card(url, self.path, handover=str(self.handover))

    async def close(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        if self._card is not None:
            self._card.unlink(missing_ok=True)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        await self._watch.close()
        for server in self._servers:
            server.close()
        for door in self._doors:
            for connection in tuple(door.connections):
                connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)
        self._folder.close()

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
        if now_ns / 1e9 >= self._rates_due:
            self._rates_due = now_ns / 1e9 + SAMPLE_S
            self._rates.sample()
            self._health.routes_without_upstream(time.monotonic())  # since when is known by looking
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)


def _catalogue(settings: Settings) -> ModelCatalogue:
    pools: Pools = {}
    return ModelCatalogue([(provider, targets_of(provider, pools)) for provider in settings.providers])
