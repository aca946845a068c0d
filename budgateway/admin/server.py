"""The admin server: its unix socket for workers and for this machine's operator, and the metrics listener."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from budgateway import native
from budgateway.admin.api import AdminApi, Operations
from budgateway.admin.handler import AdminHandler
from budgateway.admin.health import Health, probing
from budgateway.admin.instance import Instance, InstanceIndex, network, runtime_directory
from budgateway.admin.models import ModelCatalogue
from budgateway.admin.rates import SAMPLE_S, Rates
from budgateway.admin.runtime_dir import ADMIN_SOCKET, HANDOVER, RuntimeDir
from budgateway.admin.scrapes import Scrapes
from budgateway.admin.usage import UsageReport
from budgateway.app.dataplane import SWEEP_S, bound_socket
from budgateway.app.wiring import Pools, targets_of
from budgateway.auth.roles import Roles, Visibility
from budgateway.health.changes import StateChanges
from budgateway.health.prober import Prober
from budgateway.observe.metrics import Exposition
from budgateway.server.connection_cy import protocols
from budgateway.server.state_cy import ServerState
from budgateway.system.keeper import Steps
from budgateway.system.slices import at_once
from budgateway.transport.fetch import fetch
from budgateway.transport.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from budgateway.records import Settings


T = TypeVar("T")

SCRAPE_NS = 1_000_000_000  # how long an idle Prometheus connection stays open for a request already on its way
CHANGES_S = 1.0  # between two looks for changes of state to log
LOOK_S = 1.0  # between two checks of our files in directories that others clean

_log = logging.getLogger("budgateway.admin")


class AdminServer:
    """The admin server's listeners. Workers connect to the socket at `path`; its folder exists from construction on,
    mode 0700."""

    def __init__(
        self, settings: Settings, segment: native.Segment, ready: Callable[[], bool], operations: Operations
    ) -> None:
        self._settings = settings
        self._operations = operations
        self._prober = Prober(segment, fetch)
        self._resolver = Resolver()
        self._health = Health(segment, settings, self._prober)
        self._rates = Rates(native.Metrics(segment))
        self._rates_due = 0.0
        self._changes = StateChanges()
        self._changes_due = 0.0
        self._usage = UsageReport(native.UsageTable(segment))
        self._handlers: list[AdminHandler] = []
        self._instances = InstanceIndex()
        self._metrics_sock: socket.socket | None = None
        self._segment = segment
        self._ready = ready
        # A service uses systemd's directory, which its operator can reach: a service's /tmp is private.
        self._folder = RuntimeDir(runtime_directory())
        self.path = str(self._folder.path / ADMIN_SOCKET)
        self.metrics_url = ""
        self._server_states: list[ServerState] = []
        self._admin_protocols: Callable[[], asyncio.Protocol] | None = None
        self._unix_server: asyncio.Server | None = None
        self._metrics_server: asyncio.Server | None = None
        self._metrics_state: ServerState | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._steps = Steps(_log)
        self._sweep_timer: asyncio.TimerHandle | None = None

    @property
    def handover(self) -> Path:
        """Path of the socket that hands over the listening sockets (`handover`)."""
        return self._folder.path / HANDOVER

    @property
    def metrics_socket(self) -> socket.socket | None:
        """The metrics listener's socket, or None without one."""
        return self._metrics_sock

    async def open(self, metrics_sock: socket.socket | None = None) -> None:
        """Start listening, for metrics on `metrics_sock` when given. Raises OSError when the metrics port is taken."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        catalogue = at_once(self._catalogue(settings))
        visibility = Visibility(Roles(settings.auth), settings.routes)
        running = version("budgateway")
        exposition = Exposition(
            self._segment,
            self._operations.facts,
            self._health.upstreams,
            self._operations.tracing.counts,
            (running, self._operations.reloads),
        )
        scrapes = Scrapes(exposition, self._spawn)
        self._prober.adopt(*at_once(probing(settings, self._segment, resolver=self._resolver)))
        api = AdminApi(self._operations, self._health, self._rates, running, self._usage)

        def handler(public_only: bool) -> AdminHandler:
            made = AdminHandler(
                scrapes=scrapes,
                catalogue=catalogue,
                visibility=visibility,
                api=None if public_only else api,
                ready=self._ready,
                without=self._health.routes_without_upstream,
                spawn=self._spawn,
                version=running,
                public_only=public_only,
            )
            self._handlers.append(made)
            return made

        self._admin_protocols = protocols(self._server_state(handler(False)))
        await self._open_socket()
        if settings.metrics_enabled and settings.metrics_port:
            sock = metrics_sock or bound_socket(settings.metrics_host, settings.metrics_port)
            self._metrics_sock = sock
            self._metrics_state = self._server_state(handler(True))
            # A copy, because a server closes its socket when it ends, and a successor may use the same one.
            self._metrics_server = await loop.create_server(protocols(self._metrics_state), sock=sock.dup())
            host, port = sock.getsockname()[:2]
            self.metrics_url = f"http://{host}:{port}/metrics"
        self._sweep_timer = loop.call_later(SWEEP_S, self._sweep)
        self._spawn(self._keep_files())

    def adopting(self, settings: Settings) -> Generator[None, None, None]:
        """Apply a reload, in steps: show and probe the new configuration's upstreams."""
        known = {upstream.url for provider in self._settings.providers for upstream in provider.upstreams}
        yield
        wanted = yield from probing(settings, self._segment, known, self._resolver)
        catalogue = yield from self._catalogue(settings)
        yield from self._health.adopting(settings)
        self._settings = settings
        self._prober.adopt(*wanted)
        yield
        visibility = Visibility(Roles(settings.auth), settings.routes)
        for handler in self._handlers:
            handler.catalogue = catalogue
            handler.visibility = visibility

    def register(self, url: str) -> None:
        """Write the instance file that `budgateway status` reads: the gateway is up at this URL."""
        self._instances.leave(
            Instance(os.getpid(), url, self.path, str(self.handover), self._settings.host, network=network())
        )

    def retire(self) -> None:
        """Mark the instance file as draining: commands no longer choose this gateway. Requests are still served."""
        self._instances.drain()

    def hand_over_metrics(self) -> None:
        """Close the metrics listener: a successor answers on its socket from now on."""
        if self._metrics_server is not None:
            self._metrics_server.close()
            self._metrics_server = None
        if self._metrics_sock is not None:
            self._metrics_sock.close()
            self._metrics_sock = None
        if self._metrics_state is not None:
            self._metrics_state.drain(SCRAPE_NS)

    async def close(self) -> None:
        """Stop listening; remove the instance file and the socket's folder. Idempotent."""
        self._instances.remove()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        await self._prober.close()
        if self._unix_server is not None:
            self._unix_server.close()
        self.hand_over_metrics()
        for server_state in self._server_states:
            for connection in tuple(server_state.connections):
                connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resolver.close()
        await asyncio.sleep(0)
        self._folder.close()

    async def _open_socket(self) -> None:
        assert self._admin_protocols is not None
        before = self._unix_server
        self._unix_server = await asyncio.get_running_loop().create_unix_server(self._admin_protocols, self.path)
        if before is not None:
            before.close()

    async def _keep_files(self) -> None:
        """Recreate the folder, the admin socket or the instance file when a cleaner of temporary files has removed
        it."""
        steps = Steps(_log)
        while True:
            await asyncio.sleep(LOOK_S)
            with steps.step("recreating the folder of sockets"):
                if await asyncio.to_thread(self._folder.restore):
                    _log.warning("the folder %s was removed: recreating it", self._folder.path)
            with steps.step("reopening the admin socket"):
                if not await asyncio.to_thread(Path(self.path).is_socket):
                    await self._open_socket()
                    _log.warning("the socket %s was removed: recreating it", self.path)
            with steps.step("rewriting the instance file"):
                await asyncio.to_thread(self._instances.restore)

    def _catalogue(self, settings: Settings) -> Generator[None, None, ModelCatalogue]:
        pools: Pools = {}
        providers = []
        for provider in settings.providers:
            yield
            providers.append((provider, targets_of(provider, pools, resolver=self._resolver)))
        return ModelCatalogue(providers, self._spawn, lambda target: self._health.is_well(target.label))

    def _server_state(self, handler: AdminHandler) -> ServerState:
        server_state = ServerState(
            handler,
            asyncio.get_running_loop().call_soon,
            keepalive_ns=75_000_000_000,
            head_timeout_ns=10_000_000_000,
            max_body_bytes=1024 * 1024,
            max_connections=1024,
        )
        self._server_states.append(server_state)
        return server_state

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed", exc_info=error)

    def _sweep(self) -> None:
        now_ns = time.monotonic_ns()
        for server_state in self._server_states:
            with self._steps.step("sweeping the admin server's connections"):
                server_state.sweep(now_ns)
        now_s = now_ns / 1e9
        if now_s >= self._changes_due:
            self._changes_due = now_s + CHANGES_S
            with self._steps.step("looking for changes of state"):
                without = self._health.routes_without_upstream(now_s)
                self._changes.look(self._health.upstreams(), without, self._rates.fallbacks, now_s)
        if now_s >= self._rates_due:
            self._rates_due = now_s + SAMPLE_S
            with self._steps.step("sampling rates"):
                self._rates.sample()
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
