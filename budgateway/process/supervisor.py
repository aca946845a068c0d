"""The supervisor: owns the configuration, the segment, the sockets and the admin server; keeps workers running."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import socket
import time
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import uvloop

from budgateway import native
from budgateway.admin.instance import Instance, runtime_directory
from budgateway.admin.server import AdminServer
from budgateway.app.dataplane import SWEEP_S
from budgateway.config.demo import moved
from budgateway.config.difference import Difference, Origin, comparing, refusals, refusals_logged
from budgateway.config.packing import packing
from budgateway.credentials.refresher import CredentialRefresher
from budgateway.demo import DemoServer
from budgateway.errors import ConfigError, GatewayError
from budgateway.limits.keeping import StateFile
from budgateway.observe.metrics import Reloads
from budgateway.observe.tracing import Tracing
from budgateway.process.banner import banner, base_url
from budgateway.process.control import Refreshed, Reopen, Shed
from budgateway.process.fork_server import bury_orphans
from budgateway.process.handover import METRICS, SLOT, Giver, Named
from budgateway.process.memory import MemoryGuard, memory_limit, raise_open_files, want_of_files
from budgateway.process.succession import StartFailed, Succession, gateway_on
from budgateway.process.systemd import Service
from budgateway.process.worker_handle import RESPAWN_MAX_S, Served, Slot, WorkerGone, WorkerHandle, respawn_delay_s
from budgateway.process.worker_pool import WorkerPool
from budgateway.system import collector, log
from budgateway.system.keeper import Steps, keep_on
from budgateway.system.signals import hold_all, release
from budgateway.system.slices import PAUSE_S, in_slices

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from budgateway.auth.credential_store import CredentialSet
    from budgateway.config.packing import Packed
    from budgateway.records import Settings

STEADY_S = 0.5  # a worker that has served this long did not fail at startup
START_S = 30.0  # a worker that is not ready by then is replaced
LOOK_S = 4 * SWEEP_S  # time for every worker to report its number of connections
HURRY_S = 0.1
END_S = 5.0  # after the drain, for the last bytes and the access log
MEMORY = "memory is low"
WATCH_S = 1.0  # between two checks of memory, and of watched files

_log = logging.getLogger("budgateway.supervisor")


class Supervisor:
    """Runs on its own loop until it gets a stop signal; then drains all workers.

    Changes run one at a time: reload, rollback and rolling restart wait for each other.
    """

    def __init__(
        self,
        settings: Settings,
        announce: Callable[[Settings, str], None],
        load: Callable[[], Settings] | None = None,
        *,
        predecessor: Instance | None = None,
    ) -> None:
        """`announce(settings, metrics_url)` is called once, when every worker is ready. `load` reads the configuration
        again (it may block); without it, a reload is refused. A `predecessor` passes on its sockets and limit counts,
        and gets a stop signal once this gateway is ready."""
        self.settings = settings
        self.port = settings.port
        self.started = time.monotonic()
        self._relieved = False  # a successor has taken over the address
        self._giver: Giver | None = None
        self._previous: Settings | None = None
        self._generation = 0
        self._announce = announce
        self._load = None if load is None else Origin(load, settings)
        self._tasks: set[asyncio.Task[None]] = set()
        self._worker_pool = WorkerPool(settings.workers, self._spawn, with_guest=predecessor is not None)
        self._worker_pool.adopt(settings)
        self._kept = StateFile(settings.limits.state_file, self._worker_pool.segment)
        self._succession = Succession(predecessor, self._worker_pool.segment, self._worker_pool.guest_row, self._kept)
        self._slots: list[Slot] = []
        self._guard = MemoryGuard(memory_limit())
        self._changing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._settles = False
        self._failed: StartFailed | None = None
        self._announced = False
        self._up = asyncio.Event()  # announced
        self._service = Service()
        self._accepts = False  # whether workers accept connections
        self._steps = Steps(_log)
        self._worker_pool.on_wanted = self._on_wanted
        self.tracing = Tracing(settings)
        self.reloads = Reloads()
        self._worker_pool.on_spans = self.tracing.take
        self.refresher = CredentialRefresher(settings, self._update_credentials)
        try:
            self._admin_server = AdminServer(settings, self._worker_pool.segment, self._is_ready, self)
        except OSError as error:
            place = runtime_directory()
            raise StartFailed(
                f"cannot make a folder for sockets{f' in {place}' if place else ''}: {error.strerror}",
                hint="RUNTIME_DIRECTORY must name an existing, writable folder (systemd: RuntimeDirectory=)"
                if place else "TMPDIR or RUNTIME_DIRECTORY must name a writable folder",
            ) from error  # fmt: skip

    # ---------------------------------------------------------------- life

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises StartFailed when the gateway cannot start."""
        self._hear_signals()
        try:
            self._slots, metrics_sock = await self._succession.listeners(self.settings)
            self.port = self._slots[0].sock.getsockname()[1]
            self._accepts = not self._succession.waits
            self._worker_pool.open(self._slots, self._admin_server.path)
            self._keep_fork_server()  # it imports while the admin server opens
            await self._open_admin_server(metrics_sock)
            await self._open_refresher()
            keepers = [self._keeper(f"slot {slot.index}", partial(self._keep, slot)) for slot in self._slots]
            beside = [
                self._keeper("watch", self._watch),
                self._keeper("files", self._watch_files),
                self._keeper("limits", self._kept.run),
            ]
            await self._stopping.wait()
            for task in beside:
                task.cancel()
            await self._stop()
            await asyncio.gather(*beside, *keepers, return_exceptions=True)
            if self._relieved:
                await self._succession.pass_on(self._hurry, self.settings.drain_s + END_S)
            else:
                self._kept.save()  # when relieved, the successor owns the file and keeps counting
        finally:
            if self._giver is not None:
                await self._giver.close()
            await self._succession.close()
            await self.refresher.close()
            await self._admin_server.close()
            for slot in self._slots:
                slot.close()
            self._worker_pool.close()
            await asyncio.to_thread(self.tracing.close)
            hold_all()
        if self._failed is not None:
            raise self._failed

    def _keeper(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Start a task that runs for the gateway's lifetime and survives exceptions in `work`."""
        return asyncio.create_task(keep_on(name, work, _log), name=name)

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        # SIGTERM may come from behind a load balancer, which needs time to settle; Ctrl-C comes from a user at a
        # prompt.
        loop.add_signal_handler(signal.SIGTERM, self._told_to_stop, True)
        loop.add_signal_handler(signal.SIGINT, self._told_to_stop, False)
        loop.add_signal_handler(signal.SIGHUP, self._spawn_change, "reload", self.reload)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)
        loop.add_signal_handler(signal.SIGUSR2, self._spawn_change, "restart of workers", self.roll)
        release()

    def _told_to_stop(self, settles: bool) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._settles = settles
        self._stopping.set()

    # ---------------------------------------------------------------- taking over, and being relieved

    def _sockets(self) -> Named:
        """Return the sockets that a successor takes over."""
        if self._stopping.is_set() or not self._announced:
            return []
        metrics = self._admin_server.metrics_socket
        found = [(SLOT, sock) for slot in self._slots for sock in slot.sockets]
        return found + ([] if metrics is None else [(METRICS, metrics)])

    async def _be_relieved(self, pid: int) -> None:
        """Stop accepting and pass the gateway's role to the ready successor. Returns when no worker accepts."""
        _log.info("process %d takes over: finishing the exchanges in flight", pid)
        self._relieved = True
        self._service.succeeded(pid)
        self._admin_server.hand_over_metrics()
        self._told_to_stop(settles=False)
        await self._worker_pool.drain()

    async def _open_admin_server(self, metrics_sock: socket.socket | None) -> None:
        try:
            await self._admin_server.open(metrics_sock)
            self._giver = Giver(
                self._admin_server.handover, self._sockets, self._worker_pool.segment, self._be_relieved
            )
        except OSError as error:
            raise StartFailed(
                f"cannot open the admin socket in {self._admin_server.handover.parent}: {error}"
            ) from error

    async def _open_refresher(self) -> None:
        try:
            await self.refresher.open(self.settings)
        except ConfigError as error:
            raise StartFailed(str(error)) from error

    def _is_ready(self) -> bool:
        # After a takeover the address still has a gateway, whichever process answers this.
        return self._relieved or (not self._stopping.is_set() and all(slot.is_ready for slot in self._slots))

    def _begin_when_ready(self) -> None:
        if not self._announced and self._is_ready():
            self._announced = True
            self._spawn(self._begin())

    async def _begin(self) -> None:
        """Accept connections and announce it, once every worker is ready. A failed step does not prevent the others."""
        ready = partial(self._service.ready, f"serving with {len(self._slots)} workers", f"MAINPID={os.getpid()}")
        if self._succession.is_told_by_signal:
            ready()  # before the predecessor reports to the service manager that it is stopping
        with self._steps.step("taking over"):
            await self._succession.relieve()
        self._accepts = True
        for worker in tuple(self._worker_pool.alive):
            await self._tell_memory(worker)
        bound = dataclasses.replace(self.settings, port=self.port)
        with self._steps.step("writing the instance file"):
            self._admin_server.register(base_url(bound))
        with self._steps.step("printing the banner"):
            self._announce(bound, self._admin_server.metrics_url)
        ready()
        self._up.set()
        collector.settle()

    async def _stop(self) -> None:
        """Report not ready, stop accepting after `settle_s`, let exchanges end, then end the workers."""
        if not self._relieved:
            self._service.stopping()
        self._admin_server.retire()
        self._worker_pool.stop()
        if self._settles and self._announced and self.settings.settle_s and await self._is_used():
            await self._sleep_unless_hurried(self.settings.settle_s)
        for worker in self._worker_pool.alive:
            if not worker.is_draining:  # a second signal would cut its streams
                worker.drain()
        for slot in self._slots:
            # Workers close their copies: new clients are refused at once instead of waiting in a dead queue.
            slot.close()
        await self._all_end(self.settings.drain_s + END_S, hurried=self._hurry)
        deadline = time.monotonic() + END_S
        while self._hurry.is_set() and self._worker_pool.alive and time.monotonic() < deadline:
            for worker in self._worker_pool.alive:
                worker.drain()  # repeatedly: two pending signals may be delivered as one
            await self._all_end(HURRY_S)
        for worker in self._worker_pool.alive:
            _log.error("worker %d did not end in time", worker.index)
            worker.kill()
        await self._all_end(END_S)

    async def _is_used(self) -> bool:
        """Return whether any client is connected; otherwise there is no reason to settle. Workers report with each
        sweep, so a client that connected just now counts, too."""
        gauge = self._worker_pool.segment.gauge
        asked_ns = time.monotonic_ns()
        deadline_ns = asked_ns + int(LOOK_S * 1e9)
        while True:
            rows = [worker.row for worker in self._worker_pool.alive]
            if any(gauge(row, native.GAUGE_CONNECTIONS) for row in rows):
                return True
            all_said = all(gauge(row, native.GAUGE_TICK) > asked_ns for row in rows)
            if all_said or time.monotonic_ns() > deadline_ns or self._hurry.is_set():
                return False
            await asyncio.sleep(0.01)

    async def _sleep_unless_hurried(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _all_end(self, seconds: float, hurried: asyncio.Event | None = None) -> None:
        deadline = time.monotonic() + seconds

        def over() -> bool:
            return time.monotonic() >= deadline or (hurried is not None and hurried.is_set())

        while self._worker_pool.alive and not over():  # noqa: ASYNC110 - at shutdown, and only then
            await asyncio.sleep(0.01)

    # ---------------------------------------------------------------- workers

    async def _keep(self, slot: Slot) -> None:
        """Keep a worker in this slot for the gateway's lifetime."""
        young_deaths = 0
        while not self._stopping.is_set():
            worker = slot.worker
            if worker is None or worker.ended.is_set():
                try:
                    started = await self._start(slot)
                except OSError as error:
                    if self._stopping.is_set():
                        return
                    _log.error(
                        "worker %d cannot be started: %s; trying again in %.1f s", slot.index, error, RESPAWN_MAX_S
                    )
                    await self._sleep_unless_stopping(RESPAWN_MAX_S)
                    continue
                if slot.worker is None or slot.worker is worker:
                    slot.worker = worker = started
                else:
                    started.drain()
                    worker = slot.worker  # a rolling restart has put it there meanwhile
                await self._until_ready(worker)
            self._begin_when_ready()
            self._keep_fork_server()
            # A rolling restart puts another worker into the slot; the end of the old one is then expected.
            await worker.ended.wait()
            while slot.worker is not None and slot.worker is not worker:
                worker = slot.worker
                await worker.ended.wait()
            if self._stopping.is_set():
                return
            if not self._announced:
                self._failed = StartFailed(f"worker {slot.index} exited at start with status {worker.status}")
                self._stopping.set()
                return
            slot.restarts += 1
            # A worker that had served was killed or had a bad request: its replacement can start at once.
            has_served = worker.ready.is_set() and time.monotonic() - worker.ready_at > STEADY_S
            young_deaths = 0 if has_served else young_deaths + 1
            backoff_s = respawn_delay_s(young_deaths)
            _log.error(
                "worker %d (pid %d) exited with status %s; starting another in %.1f s",
                slot.index, worker.pid, worker.status, backoff_s,
            )  # fmt: skip
            await self._sleep_unless_stopping(backoff_s)

    def _keep_fork_server(self) -> None:
        self._worker_pool.keep_fork_server(self.settings.spare_worker and not self._stopping.is_set())

    async def _sleep_unless_stopping(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _start(self, slot: Slot) -> WorkerHandle:
        """Start a worker for the slot. Raises OSError when the system has no free process."""
        worker = await self._worker_pool.start(slot, self._served)
        if self._guard.is_shedding:
            await self._tell_memory(worker)
        if self._stopping.is_set():
            worker.drain()
        return worker

    def _served(self) -> Served:
        """Return what a worker that starts now serves."""
        return Served(
            self.settings, self._generation, self.refresher.credentials, self._accepts, replaces=self._announced
        )

    async def _update_credentials(self, credentials: CredentialSet) -> None:
        """Send new credentials to every worker; returns when all serving workers use them."""
        await asyncio.gather(*(worker.update_credentials(credentials) for worker in tuple(self._worker_pool.alive)))

    def _on_wanted(self, worker: WorkerHandle, issuer: str) -> None:
        self._spawn(self._refresh(worker, issuer))

    async def _refresh(self, worker: WorkerHandle, issuer: str) -> None:
        try:
            await self.refresher.wanted(issuer)
        finally:
            await worker.tell(Refreshed(issuer))  # exchanges wait for it

    async def _until_ready(self, worker: WorkerHandle) -> None:
        """Wait until a worker is ready or has ended; kill it when it takes longer than START_S."""
        done, waiting = await asyncio.wait(
            (asyncio.ensure_future(worker.ready.wait()), asyncio.ensure_future(worker.ended.wait())),
            timeout=START_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in waiting:
            task.cancel()
        if not done:
            _log.error("worker %d was not ready within %.0f s", worker.index, START_S)
            worker.kill()

    async def roll(self) -> None:
        """Replace every worker, one after the other: the new one is ready before the old one drains."""
        async with self._changing:
            await self._worker_pool.renew()
            for slot in self._slots:
                new = await self._start(slot)
                await self._until_ready(new)
                if not new.ready.is_set() or self._stopping.is_set():
                    raise GatewayError(f"worker {slot.index}: the new one did not start; the old one stays")
                # Take the current worker of the slot: the earlier one may have been killed and replaced meanwhile.
                old, slot.worker = slot.worker, new
                if old is not None:
                    old.drain()
                _log.info("worker %d: pid %d replaces %d", slot.index, new.pid, old.pid if old is not None else 0)

    # ---------------------------------------------------------------- configuration

    async def reload(self) -> Difference:
        """Read the configuration again and switch all workers to it, or none. Raises ConfigError with every problem.
        Access logs are reopened even when the reload fails: SIGHUP may come from logrotate."""
        if self._load is None:
            raise ConfigError(["this gateway got its settings from a program: there is no file to reload"])
        self._reopen()
        async with self._changing, refusals_logged("reload"):
            self._service.reloading()
            try:
                with self.reloads.counted():
                    difference = await self._apply(await self._load.read())
            finally:
                self._service.ready("serving")
        _log.info("configuration reloaded: %s", difference)
        return difference

    async def rollback(self) -> Difference:
        """Restore the previous configuration. Raises ConfigError when there is none."""
        async with self._changing, refusals_logged("rollback"):
            if self._previous is None:
                raise ConfigError(["there is no earlier configuration"])
            difference = await self._apply(self._previous)
        _log.info("configuration rolled back: %s", difference)
        return difference

    async def _apply(self, settings: Settings) -> Difference:
        if problems := refusals(self.settings, settings):
            raise ConfigError(problems)
        await self.refresher.look_at(settings)
        difference = await in_slices(comparing(self.settings, settings), pause_s=PAUSE_S)
        packed = await in_slices(packing(settings), pause_s=PAUSE_S)
        generation = self._generation + 1
        voters = [worker for worker in self._worker_pool.alive if not worker.is_draining]
        verdicts = await asyncio.gather(*(self._ask(worker, generation, packed) for worker in voters))
        if problems := sorted({problem for problem in verdicts if problem}):
            await asyncio.gather(*(worker.abort(generation) for worker in voters))
            raise ConfigError(problems)
        # From here on, new workers start with this configuration.
        self._generation, self._previous, self.settings = generation, self.settings, settings
        self._kept.path = settings.limits.state_file
        await asyncio.gather(*(worker.commit(generation) for worker in voters))
        # A worker that started during the vote has the old configuration.
        for worker in tuple(self._worker_pool.alive):
            if worker.generation < generation and not worker.is_draining:
                if await self._ask(worker, generation, packed):
                    worker.kill()
                await worker.commit(generation)
        self._worker_pool.adopt(settings)
        self.tracing.adopt(settings)
        await in_slices(self._admin_server.adopting(settings), pause_s=PAUSE_S)
        await self.refresher.adopt(settings)
        logging.getLogger().setLevel(settings.log_level)
        return difference

    async def _ask(self, worker: WorkerHandle, generation: int, packed: Packed) -> str:
        """Return "" when a worker could switch, else the reason why it cannot."""
        try:
            async with asyncio.timeout(START_S):
                return await worker.prepare(generation, packed)
        except WorkerGone:
            return ""  # its replacement starts with the configuration decided on
        except TimeoutError:
            return f"worker {worker.index} did not respond within {START_S:.0f} s"

    def _reopen(self) -> None:
        """Make every worker, draining or not, reopen its access log."""
        for worker in tuple(self._worker_pool.alive):
            self._spawn(worker.tell(Reopen()))

    # ---------------------------------------------------------------- watching

    async def _watch(self) -> None:
        """Every second, check orphans, memory, hung workers and the fork server."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            looked, before = time.monotonic(), looked
            with self._steps.step("burying orphans"):
                bury_orphans(self._worker_pool.pids())  # not on SIGCHLD, which uvloop keeps for itself
            with self._steps.step("guarding memory"):
                await self._guard_memory()
            with self._steps.step("killing blocked workers"):
                await self._worker_pool.end_hung(looked - before, WATCH_S, self.settings.worker_timeout_s)
            with self._steps.step("keeping a fork server"):
                self._keep_fork_server()
            with self._steps.step("listening for a successor"):
                if self._giver is not None:
                    self._giver.restore()

    async def _watch_files(self) -> None:
        """Every second, check the configuration's files and the files it refers to. A task of its own, because a file
        system may hang."""
        while self._load is not None:
            await asyncio.sleep(WATCH_S)
            if self.settings.watch and await asyncio.to_thread(self._load.changed):
                self._spawn_change("reload", self.reload)

    async def _guard_memory(self) -> None:
        held = await self._worker_pool.held_bytes(self._guard.matters_bytes)
        if not self._guard.judge(held):
            return
        _log.log(
            logging.WARNING if self._guard.is_shedding else logging.INFO,
            "memory: %d MiB of %d MiB; %s new exchanges, %s connections",
            held >> 20, self._guard.limit_bytes >> 20,
            "refusing" if self._guard.is_shedding else "taking", "accepting" if self._guard.accepts else "not accepting",
        )  # fmt: skip
        for worker in tuple(self._worker_pool.alive):
            await self._tell_memory(worker)

    async def _tell_memory(self, worker: WorkerHandle) -> None:
        worker.accepts = self._accepts and self._guard.accepts
        await worker.tell(Shed(MEMORY if self._guard.is_shedding else "", worker.accepts))

    def facts(self) -> list[dict[str, Any]]:
        """Return each worker's state for the admin endpoints, draining workers included."""
        return self._worker_pool.facts()

    # ---------------------------------------------------------------- tasks

    def restart_workers(self) -> int:
        """Begin a rolling restart; return the number of workers it replaces."""
        self._spawn_change("restart of workers", self.roll)
        return len(self._slots)

    def _spawn_change(self, name: str, change: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._spawn(self._changed(name, change))

    async def _changed(self, name: str, change: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a change in the background and log its failure. A change requested during startup runs once startup is
        complete."""
        try:
            await self._up.wait()
            await change()
        except ConfigError:
            pass  # the reason for the refusal is already in the log
        except Exception as error:  # noqa: BLE001 - a background task's edge
            _log.error("%s failed: %s", name, error, exc_info=not isinstance(error, GatewayError))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed", exc_info=error)


def run(
    settings: Settings,
    *,
    demo: bool = False,
    load: Callable[[], Settings] | None = None,
    stop_loading: Callable[[], None] = lambda: None,
    take_over: bool = False,
) -> int:
    """Run the gateway until it is stopped; return the exit status.

    `load` reads the configuration again, for reloads; `stop_loading` ends a call of it that is under way, from another
    thread. With `take_over`, the sockets come from this user's gateway on the same port, if there is one, which is then
    stopped. With `demo`, the settings' provider is moved to an embedded model server that lives as long as the gateway.
    """
    hold_all()
    said = log.begin(settings.log_level)
    raise_open_files()
    if want := want_of_files(settings.max_connections, settings.workers):
        _log.warning("%s", want)
    try:
        predecessor = gateway_on(settings.host, settings.port) if take_over else None
        serving = (_serve_demo if demo else _serve)(settings, load, predecessor)
        uvloop.run(_then(serving, stop_loading))
    except StartFailed as error:
        said.put((f"budgateway: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else "")).encode())
        return 1
    return 0


async def _then(serving: Coroutine[Any, Any, None], finish: Callable[[], None]) -> None:
    try:
        await serving
    finally:
        finish()  # before the loop waits for its threads


async def _serve(settings: Settings, load: Callable[[], Settings] | None, predecessor: Instance | None = None) -> None:
    await Supervisor(settings, _announce, load, predecessor=predecessor).run()


async def _serve_demo(
    settings: Settings, load: Callable[[], Settings] | None, predecessor: Instance | None = None
) -> None:
    async with DemoServer() as demo:
        again = None if load is None else partial(_moved, load, demo.url)
        await _serve(moved(settings, demo.url), again, predecessor)


def _moved(load: Callable[[], Settings], url: str) -> Settings:
    return moved(load(), url)


def _announce(settings: Settings, metrics_url: str) -> None:
    log.show(banner(settings, version=version("budgateway"), metrics_url=metrics_url))
