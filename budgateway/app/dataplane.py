"""The data plane: one process's server, on the snapshot that `wiring` built from a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import secrets
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.app.preload import preload, reads_keys
from budgateway.app.redis_parts import LogOnce, RedisParts
from budgateway.app.wiring import Builder, largest_body
from budgateway.auth.credential_store import CredentialSet, CredentialStore
from budgateway.balance.mirror import MirrorCounts
from budgateway.balance.queue import Queues
from budgateway.errors import Draining
from budgateway.observe.access import FLUSH_BYTES, AccessWriter
from budgateway.observe.record_cy import Recorder
from budgateway.proxy.fastpath import FastPath
from budgateway.proxy.relay_cy import Relay
from budgateway.records import Tracing
from budgateway.server.address import Networks
from budgateway.server.connection_cy import protocols
from budgateway.server.departures import Departures
from budgateway.server.handshakes import TlsListener
from budgateway.server.proxies import Proxies
from budgateway.server.state_cy import ServerState
from budgateway.system import collector
from budgateway.system.keeper import Steps
from budgateway.system.pem import load_pair
from budgateway.system.slices import at_once, in_slices
from budgateway.transport.resolve import Resolver
from budgateway.transport.sockets import PlainSockets

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence

    from budgateway.app.wiring import Pools
    from budgateway.proxy.pipeline_cy import Snapshot
    from budgateway.records import Settings
    from budgateway.transport.client_cy import Pool

SWEEP_S = 0.25
BACKLOG = 4096
GRACE_S = 1.0  # for a request that crosses our closing of its idle connection
FLUSH_S = 2.0  # for the last bytes of streams that are cut short
HEAP_BYTES = 8 * 1024 * 1024  # free memory to keep: 64 prompts of 20 KB, with their copies, are 3 MB
ACCESS_RETRY_S = 1.0  # between two attempts to open an access log that was there before
MAX_LAG_S = 0.25  # RELIABILITY 1
UNUSED = 2  # references to a former snapshot that nobody uses: the list's, and the argument of the question
CLOCK_STEP_NS = 500_000_000  # a disciplined clock never moves this far between two sweeps

_log = logging.getLogger("budgateway.runtime")


@dataclass(frozen=True, slots=True)
class Successor:
    """A configuration that `prepare` has built and `commit` can serve."""

    settings: Settings
    snapshot: Snapshot
    pools: Pools
    redis_parts: RedisParts | None
    tls: ssl.SSLContext | None
    models_version: int  # the segment's, which its balancers follow


class ConnectionCount:
    """One worker's view of the count of client connections, which all workers share."""

    def __init__(self, segment: native.Segment, worker: int) -> None:
        self._segment = segment
        self._worker = worker

    def enter(self, most: int) -> bool:
        """Count one more, unless that exceeds `most` in all workers together; return whether it was counted."""
        return self._segment.enter(self._worker, native.GAUGE_CONNECTIONS, most)

    def leave(self) -> None:
        """Count one less."""
        self._segment.add(self._worker, native.GAUGE_CONNECTIONS, -1)


class DataPlane:
    """One process's server: the accepting side, the relay behind it, the sweep, the access log."""

    def __init__(
        self,
        settings: Settings,
        segment: native.Segment,
        worker: int,
        admin_path: str,
        wakeup_fds: Sequence[int] = (),
        credentials: CredentialSet | None = None,
        *,
        patient: bool = False,
    ) -> None:
        """Build everything that needs no running loop. Raises OSError when the access log cannot be opened; with
        `patient`, serves without it until it can. `wakeup_fds` holds an eventfd for each row of the segment, when there
        are other workers."""
        preload(keys=reads_keys(settings))
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._plain = PlainSockets.of(loop)
        self._segment = segment
        self._worker = worker
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: list[socket.socket] = []
        self._servers: list[asyncio.Server | native.Listener | TlsListener] = []
        self._accepts = True
        self._admin_path = admin_path
        self._tls = server_tls(settings)
        self._retired: list[Pool] = []
        self._late_sweeps = 0
        self._steps = Steps(_log)
        # offset from the monotonic clock to the wall clock
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self._models_version = -1
        self._memory_short = ""
        # called when shedding begins and ends, with the reason or ""
        self.on_shedding: Callable[[str], None] | None = None
        self.pools: Pools = {}
        self._wakeup_fd = wakeup_fds[worker] if wakeup_fds else -1
        self.queues = Queues(segment, worker, wakeup_fds)
        self._should_log = LogOnce(segment, worker)
        self.redis_parts = (
            None if settings.store is None else RedisParts(settings.store, settings.workers, self._should_log)
        )
        self._past: list[RedisParts] = []  # closed when the exchanges that use them have ended
        self.credential_store = CredentialStore(credentials)
        self.copies = MirrorCounts()
        self._resolver = Resolver()
        self.snapshot = at_once(self._building(settings, self.redis_parts, self.pools))
        self._former: list[Snapshot] = []  # taken apart when the exchanges that began under them have ended
        access = None if settings.access_log == "off" else native.AccessLog(segment, 4 << 20)
        self._access_log, self._access_path = access, settings.access_log
        self._access: AccessWriter | None = None
        self._access_due = 0.0  # time of the next attempt to open it
        try:
            self._open_access()
        except OSError as error:
            if not patient:
                raise
            _log.error("access log: cannot open %s: %s; lines wait for it", settings.access_log, error.strerror)
        recorder = Recorder(
            segment,
            access,
            self._epoch_ns,
            FLUSH_BYTES,
            None if access is None else self._flush_access,
        )
        self.relay = Relay(recorder, self.spawn, loop.call_later, id_prefix=secrets.token_hex(6) + f"{worker:02x}")
        self.relay.sender.plain = self._plain
        self._departures = Departures(loop.add_reader)
        self.server_state = ServerState(
            self.relay,
            loop.call_soon,
            keepalive_ns=int(settings.keepalive_s * 1e9),
            head_timeout_ns=int(settings.head_timeout_s * 1e9),
            max_body_bytes=largest_body(settings),
            max_connections=settings.max_connections,
            departures=self._departures,
            connection_count=ConnectionCount(segment, worker),
        )
        self.server_state.bound(open_files())
        self.server_state.proxies = proxies_of(settings)
        self.server_state.networks = Networks(settings.limits.ipv6_prefix)
        self._recorder = recorder
        self._tracer: native.Tracer | None = None
        # called with the records of traced exchanges, their number, and the number of those dropped
        self.on_spans: Callable[[bytes, int, int], None] | None = None
        self._trace(settings)
        self.fastpath: FastPath | None = None
        if self._plain is not None:
            self.fastpath = FastPath(self.relay, recorder, self._epoch_ns)
            self.relay.fast_in_flight = self.fastpath.native.__len__
            self.server_state.fastpath = self.fastpath.native
            self._plain.intercept(self.fastpath.native)
        self._serve(self.snapshot)
        self._sweep_due = loop.time() + SWEEP_S
        self._sweep_timer = loop.call_at(self._sweep_due, self._sweep)
        if self._wakeup_fd >= 0:
            loop.add_reader(self._wakeup_fd, self.queues.rung)
        self._publish()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task and keep a reference to it; exceptions are logged."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed", exc_info=error)

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections from a bound socket, and take ownership of it. The first call waits for Redis, for up to
        its start timeout."""
        if self.redis_parts is not None and not self._listening:
            self.redis_parts.open()
            await self.redis_parts.ready()
        self._listening.append(sock)
        if self._accepts:
            await self._accept_from(sock)

    def accept(self, accepts: bool) -> None:
        """Set whether connections are accepted or left in the sockets' queues. Open connections stay. Before `listen`,
        sets the initial state."""
        if accepts == self._accepts:
            return
        self._accepts = accepts
        self._listen_anew()

    def _listen_anew(self) -> None:
        """Restart the listeners with the current settings. New connections wait in the sockets' queues meanwhile."""
        self._stop_accepting()
        if self._accepts:
            for sock in self._listening:
                self.spawn(self._accept_from(sock))

    async def _accept_from(self, sock: socket.socket) -> None:
        tls = self._tls
        server: asyncio.Server | native.Listener | TlsListener
        if self._plain is not None and tls is None:
            server = self._plain.listen(sock, BACKLOG, protocols(self.server_state), self.server_state.accepts)
        elif self._plain is not None and tls is not None:
            server = TlsListener(sock, BACKLOG, self.server_state, tls, self.spawn)
        else:
            # A server closes its socket when it ends; the copy shares its queue.
            copy = sock.dup()
            server = await self._loop.create_server(protocols(self.server_state), sock=copy, backlog=BACKLOG, ssl=tls)
        if self._accepts and self._listening and tls is self._tls:
            self._servers.append(server)
        else:
            server.close()

    def _stop_accepting(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def stop_listening(self) -> None:
        """Stop accepting permanently. Idempotent."""
        self._stop_accepting()
        for sock in self._listening:
            sock.close()
        self._listening.clear()

    def prepare(self, settings: Settings) -> Successor:
        """Build what `settings` needs next to the current snapshot; changes nothing. Raises ValueError or OSError
        (certificate files) when that fails."""
        return at_once(self.preparing(settings))

    def preparing(self, settings: Settings) -> Generator[None, None, Successor]:
        """Do what `prepare` does, in steps, between which this process serves. Exchanges, credentials and models may
        change meanwhile, the configuration may not."""
        tls = server_tls(settings)
        pools: Pools = {}
        redis_parts = self.redis_parts
        if settings.store != self.snapshot.settings.store or _certificates_changed(self.snapshot.settings, settings):
            redis_parts = (
                None if settings.store is None else RedisParts(settings.store, settings.workers, self._should_log)
            )
        yield
        snapshot = yield from self._building(settings, redis_parts, pools, self.pools)
        models_version = self._segment.models_version
        snapshot.routes.learn(dict(self._segment.models()))
        for compiled in snapshot.routes.compiled_routes:
            compiled.follow_models(models_version)
            yield
        return Successor(settings, snapshot, pools, redis_parts, tls, models_version)

    def _building(
        self, settings: Settings, redis_parts: RedisParts | None, pools: Pools, warm: Pools | None = None
    ) -> Generator[None, None, Snapshot]:
        builder = Builder(
            settings,
            self._segment,
            self._worker,
            pools,
            warm=warm,
            queues=self.queues,
            resolver=self._resolver,
        )
        return builder.snapshot(
            self._admin_path,
            credential_store=self.credential_store,
            copies=self.copies,
            shared=None if redis_parts is None else redis_parts.limits,
        )

    def commit(self, successor: Successor) -> None:
        """Serve a prepared configuration. Exchanges in flight keep the one they started with, unchanged upstreams their
        warm connections."""
        settings = successor.settings
        if self._tls is not None and successor.tls is not None:
            # Certificates are renewed under the same names: new connections get the pair that `prepare` read as a
            # whole.
            self._tls = successor.tls
            self._listen_anew()
        for key, pool in self.pools.items():
            if key not in successor.pools:
                pool.close()
                self._retired.append(pool)
        if successor.redis_parts is not self.redis_parts:
            if self.redis_parts is not None:
                self._past.append(self.redis_parts)
            self.redis_parts = successor.redis_parts
            if self.redis_parts is not None:
                self.redis_parts.open()
        self.queues.adopt(settings.providers)
        self.pools = successor.pools
        self._former.append(self.snapshot)
        successor.snapshot.auth.learn()  # credentials that arrived since it was built
        self._trace(settings)
        self._serve(successor.snapshot)
        self.server_state.keepalive_ns = int(settings.keepalive_s * 1e9)
        self.server_state.head_timeout_ns = int(settings.head_timeout_s * 1e9)
        self.server_state.proxies = proxies_of(settings)
        self.server_state.networks = Networks(settings.limits.ipv6_prefix)
        self.server_state.max_body_bytes = largest_body(settings)
        self.server_state.max_connections = settings.max_connections
        self._models_version = successor.models_version
        self._follow_models()

    def discard(self, successor: Successor) -> None:
        """Free a prepared configuration that will not be served."""
        self._former.append(successor.snapshot)

    def _trace(self, settings: Settings) -> None:
        """Trace exchanges that begin from now on by these settings."""
        self._send_spans()  # what the former tracer has kept
        explains = settings.log_level == "DEBUG"
        tracing = settings.tracing
        if tracing is None and explains:
            tracing = Tracing(requests=True)  # for the log alone: nobody takes its records
        self._tracer = None if tracing is None else tracer_of(tracing, settings.workers, self._segment)
        self._recorder.ledger.follow(self._tracer)
        times = settings.tracing is not None and settings.tracing.requests
        self.relay.follow_tracer(self._tracer, times, explains)

    def _send_spans(self) -> None:
        if self._tracer is not None and self.on_spans is not None:
            records, kept, dropped = self._tracer.drain()
            if (kept or dropped) and self.snapshot.settings.tracing is not None:
                self.on_spans(records, kept, dropped)

    def reopen(self) -> None:
        """Reopen the access log, after its file was renamed."""
        if self._access is not None:
            self._access.reopen()

    def _serve(self, snapshot: Snapshot) -> None:
        """Plan by this snapshot from now on."""
        if self.fastpath is not None:
            # First: exchanges in flight stay on the snapshot they began with.
            self.fastpath.follow(snapshot)
        self.snapshot = snapshot
        self.relay.snapshot = snapshot
        self.server_state.full_lines = snapshot.origins.plain
        self._open_fast_path()

    def _open_fast_path(self) -> None:
        """Open or close the fast path. It is closed while new exchanges are refused, and while each is explained in the
        log."""
        if self.fastpath is not None:
            explains = self.snapshot.settings.log_level == "DEBUG"
            self.fastpath.native.open(not (self.relay.shedding or self.server_state.draining or explains))

    def update_credentials(self, credentials: CredentialSet) -> None:
        """Use new credentials from now on."""
        self.credential_store.update_credentials(credentials)
        self.snapshot.auth.learn()

    def shed(self, reason: str) -> None:
        """Refuse new exchanges for `reason`, or accept them again ("")."""
        self._memory_short = reason
        self._shed(reason)

    def _shed(self, reason: str) -> None:
        if reason != self.relay.shedding:
            self.relay.shedding = reason
            self._open_fast_path()
            if self.on_shedding is not None:
                self.on_shedding(reason)

    async def drain(self, seconds: float, hurry: asyncio.Event | None = None) -> None:
        """Stop accepting. Idle connections get a moment for a request that may be on its way, exchanges in flight get
        `seconds` (or until `hurry`). Streams that still run are then ended with an error event."""
        self.stop_listening()
        self.server_state.drain(int(min(GRACE_S, seconds) * 1e9))
        deadline = self._loop.time() + seconds
        while self._is_busy() and self._loop.time() < deadline and not (hurry is not None and hurry.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if self.server_state.connections:
            self.server_state.end(Draining("the gateway is shutting down", retry_after_s=1.0))
            # Let the last bytes get out, but do not wait for a client that reads nothing.
            deadline = self._loop.time() + FLUSH_S
            while self.server_state.connections and self._loop.time() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def _is_busy(self) -> bool:
        return bool(self.relay.in_flight or self.server_state.connections)

    async def close(self) -> None:
        """Drop all connections and write the rest of the access log. Idempotent."""
        self._sweep_timer.cancel()
        if self.fastpath is not None:
            self.fastpath.native.close()
        if self._wakeup_fd >= 0:
            self._loop.remove_reader(self._wakeup_fd)
        self.stop_listening()
        for connection in tuple(self.server_state.connections):
            connection.abort()
        for pool in (*self.pools.values(), *self._retired):
            pool.close()
            for upstream in tuple(pool.open):
                upstream.abort()
        # One turn of the loop, so that every connection notices its end and releases its exchange's resources.
        await asyncio.sleep(0)
        self._departures.close(self._loop.remove_reader)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resolver.close()
        for redis_parts in (*self._past, *([self.redis_parts] if self.redis_parts is not None else ())):
            await redis_parts.close()
        self._send_spans()
        if self._access is not None:
            await self._access.close()
        self._publish()
        if self._plain is not None:
            self._plain.close()

    def _sweep(self) -> None:
        try:
            self._look_around(time.monotonic_ns())
        finally:
            # R17: schedule the next sweep even when this one fails.
            self._judge_lag()

    def _look_around(self, now_ns: int) -> None:
        step = self._steps.step
        # First: requests waiting for an upstream are judged by the time of its last bytes.
        for key, pool in self.pools.items():
            with step(f"sweeping connections to {key[0]}"):
                pool.sweep(now_ns)
        with step("sweeping connections"):
            self.server_state.sweep(now_ns)
        self._retired = [pool for pool in self._retired if pool.open]
        self.snapshot.limits.today = self._segment.today or int(time.time()) // 86_400
        if self.fastpath is not None:
            self.fastpath.native.set_day(self.snapshot.limits.today)
        with step("publishing gauges"):
            self._publish()
        with step("closing the Redis connections of former configurations"):
            for past in [past for past in self._past if past.is_idle]:
                self._past.remove(past)
                self.spawn(past.close())
        with step("freeing former configurations"):
            self._free_former()
        with step("following models"):
            self._follow_models()
        with step("updating the calendar"):
            self._follow_clock(now_ns)
        with step("sending spans"):
            self._send_spans()
        with step("writing the access log"):
            self._flush_access()

    def _open_access(self) -> None:
        if self._access_log is not None:
            self._access_due = self._loop.time() + ACCESS_RETRY_S
            self._access = AccessWriter(self._access_log, self._access_path)

    def _flush_access(self) -> None:
        if self._access is None and self._access_log is not None and self._loop.time() > self._access_due:
            with contextlib.suppress(OSError):
                self._open_access()
                _log.info("access log: %s is open again", self._access_path)
        if self._access is not None:
            self._access.flush()

    def _lines_lost(self) -> int:
        if self._access is not None:
            return self._access.lost
        return 0 if self._access_log is None else self._access_log.dropped

    def _free_former(self) -> None:
        """Take apart the snapshots that nobody uses any more, in steps: left to the last exchange that began under one,
        freeing the objects of a thousand routes would stall the loop for ten milliseconds."""
        unused = [at for at in range(len(self._former)) if sys.getrefcount(self._former[at]) <= UNUSED]
        for at in reversed(unused):
            self.spawn(in_slices(taking_apart(self._former.pop(at))))

    def _follow_models(self) -> None:
        """Update the balancers when an upstream's served models have changed."""
        version = self._segment.models_version
        if version != self._models_version:
            self._models_version = version
            self.snapshot.routes.learn(dict(self._segment.models()))
            for compiled in self.snapshot.routes.compiled_routes:
                compiled.follow_models(version)
            if self.fastpath is not None:
                self.fastpath.clear()

    def _follow_clock(self, now_ns: int) -> None:
        """Tell the fast path after a step of the wall clock (set, or the machine has slept): credentials expire by
        it."""
        epoch_ns = time.time_ns() - now_ns
        if abs(epoch_ns - self._epoch_ns) > CLOCK_STEP_NS:
            self._epoch_ns = epoch_ns
            if self.fastpath is not None:
                self.fastpath.native.set_clock(epoch_ns)

    def _judge_lag(self) -> None:
        """Shed while the loop is late in two sweeps in a row: a single long step of one exchange is no overload."""
        now = self._loop.time()
        late = now - self._sweep_due > MAX_LAG_S
        self._late_sweeps = self._late_sweeps + 1 if late else 0
        if self._late_sweeps > 1:
            self._shed("its event loop is slow")
        elif not late:
            self._shed(self._memory_short)
        self._sweep_due = now + SWEEP_S
        self._sweep_timer = self._loop.call_at(self._sweep_due, self._sweep)

    def _publish(self) -> None:
        """Update this worker's gauges, and the share of the gateway that one upstream may use."""
        pools = (*self.pools.values(), *self._retired)
        idle = sum(pool.idle_count() for pool in pools)
        opened = sum(len(pool.open) for pool in pools)
        sockets = self.relay.sockets
        for gauge, value in (
            (native.GAUGE_EXCHANGES, self.relay.in_flight + self.relay.fast_in_flight()),
            (native.GAUGE_POOL_IDLE, idle),
            (native.GAUGE_POOL_BUSY, opened - idle),
            (native.GAUGE_TICK, time.monotonic_ns()),
            (native.GAUGE_SOCKETS, sockets.open),
            (native.GAUGE_SOCKET_FRAMES_IN, sockets.frames_in),
            (native.GAUGE_SOCKET_FRAMES_OUT, sockets.frames_out),
            (native.GAUGE_SOCKET_BYTES_IN, sockets.bytes_in),
            (native.GAUGE_SOCKET_BYTES_OUT, sockets.bytes_out),
            *(self.redis_parts.figures() if self.redis_parts is not None else ()),
            (native.GAUGE_MIRRORED, self.copies.answered),
            (native.GAUGE_MIRRORS_FAILED, self.copies.failed),
            (native.GAUGE_MIRRORS_SKIPPED, self.copies.skipped),
            (native.GAUGE_LINES_LOST, self._lines_lost()),
        ):
            self._segment.add(self._worker, gauge, value - self._segment.gauge(self._worker, gauge))
        # RELIABILITY 1: no upstream may use up the gateway.
        self.relay.sender.share = max(1, self.snapshot.settings.max_connections // 2)
        if self.fastpath is not None:
            self.fastpath.native.share(self.relay.sender.share)
        self.relay.spread_above = max(0, self.relay.sender.share - self._of_others(native.GAUGE_EXCHANGES))

    def _of_others(self, gauge: int) -> int:
        rows = range(self._segment.workers)
        return sum(self._segment.gauge(worker, gauge) for worker in rows if worker != self._worker)


def taking_apart(snapshot: Snapshot) -> Generator[None, None, None]:
    """Free a snapshot that nobody else holds, a route or a provider in a step."""
    settings = snapshot.settings
    parts: tuple[list[Any], ...] = (
        list(snapshot.routes.compiled_routes),
        list(snapshot.providers.values()),
        list(settings.routes),
        list(settings.providers),
    )
    del snapshot, settings
    for part in parts:
        while part:
            part.pop()
            yield


def proxies_of(settings: Settings) -> Proxies | None:
    """Return the proxies whose `X-Forwarded-For` is trusted, or None."""
    return Proxies(settings.trusted_proxies) if settings.trusted_proxies else None


def _certificates_changed(before: Settings, after: Settings) -> bool:
    """Return whether files for Redis over TLS were renewed under the same names."""
    if after.store is None:
        return False
    names = (after.store.tls_ca_file, after.store.tls_cert_file, after.store.tls_key_file)
    was, now = dict(before.files), dict(after.files)
    return any(was.get(name) != now.get(name) for name in names if name)


def tracer_of(tracing: Tracing, workers: int, segment: native.Segment) -> native.Tracer:
    """Return a worker's tracer: its share of what the gateway may keep."""
    return native.Tracer(
        segment,
        (secrets.randbits(64), secrets.randbits(64)),
        ratio=tracing.ratio,
        parent=tracing.parent,
        keep_errors=tracing.keep_errors,
        keep_slower_than_ns=int(tracing.keep_slower_than_s * 1e9),
        max_per_second=tracing.max_per_second / workers,
        keeps_all=tracing.requests,
        propagates=bool(tracing.endpoint),
    )


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """Return the listener's TLS context, or None for plain HTTP."""
    if settings.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_pair(context, settings.tls.cert or settings.tls.cert_file, settings.tls.key or settings.tls.key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def open_files() -> int:
    """Return this process's limit of open descriptors."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit


def bound_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a TCP socket bound with SO_REUSEPORT, so that every worker has its own queue.

    `shared` means that the port is ours already. Otherwise a port in use raises OSError (EADDRINUSE).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port and not shared:
        # SO_REUSEPORT admits every process of this user, so a second gateway would silently take half of the traffic.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections in TIME_WAIT
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise OSError(errno.EADDRINUSE, "the port is taken") from error
                raise
    # asyncio sets TCP_NODELAY only when the protocol is named; without it every second write waits 40 ms for an ACK.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def is_bound_to(sock: socket.socket, host: str, port: int) -> bool:
    """Return whether a listening socket is at the address where `bound_socket(host, port)` would put one."""
    try:
        at = sock.getsockname()[:2]
        found = socket.getaddrinfo(host, port, sock.family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return at in {address[:2] for *_, address in found}


def settle_memory() -> None:
    """Settle the garbage collector, and set how much free heap glibc keeps."""
    collector.settle()
    # mallopt(3): glibc keeps twice the largest block ever unmapped free at the heap's end, initially 128 KiB. The
    # bodies of one loop iteration are larger than that, and would page-fault each time. This block is never touched.
    bytearray(HEAP_BYTES // 2)
